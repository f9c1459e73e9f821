"""The Django project that Celery's own tests run in: a database, and the one queue that they allow."""

import os

import dj_database_url
from kombu import Queue

SECRET_KEY = "only for tests"
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django_celery_results",
    "django_celery_beat",
    "handbell",
]
DATABASES = {"default": dj_database_url.parse(os.environ["PUBLISHED_DATABASE"])}
HANDBELL_DATA_DIR = os.environ["PUBLISHED_FOLDER"]

CELERY_BROKER_URL = os.environ["TEST_BROKER"]
CELERY_TASK_QUEUES = [Queue("celery")]
CELERY_TASK_DEFAULT_QUEUE = "celery"
CELERY_TASK_CREATE_MISSING_QUEUES = False
CELERY_RESULT_EXTENDED = True
CELERY_TASK_TRACK_STARTED = False
CELERY_TASK_DEFAULT_PRIORITY = None
