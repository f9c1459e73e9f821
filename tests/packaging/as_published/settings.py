"""A project in which Django's own tests of its Tasks framework run."""

import os
from urllib.parse import urlsplit

SECRET_KEY = "only for tests " * 4
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_celery_results", "handbell"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
USE_TZ = True
TEST_RUNNER = "runner.Runner"
HANDBELL_QUEUES = "runner.QUEUES"

if url := os.environ.get("DATABASE_URL"):
    parts = urlsplit(url)
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username or "",
        "HOST": dict(pair.partition("=")[::2] for pair in parts.query.split("&")).get("host", parts.hostname or ""),
    }
