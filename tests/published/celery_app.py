"""The app that Celery's own tests call and that their worker runs: `PUBLISHED_APP` says whose it is.

`handbell` is ours. `stock` is Celery's with django-celery-results, and `redis` Celery's with its Redis result backend:
both to compare with.
"""

import os

import celery
import django
from celery.contrib.testing import tasks as _  # noqa: F401  (it registers celery.ping)
from celery.contrib.testing.app import DEFAULT_TEST_CONFIG

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.published.celery_settings")
django.setup()

import handbell  # noqa: E402

WHOSE = os.environ["PUBLISHED_APP"]
RESULTS = {"handbell": None, "stock": "django-db", "redis": os.environ["PUBLISHED_REDIS"]}

app = (handbell.Celery if WHOSE == "handbell" else celery.Celery)("published", include=["t.integration.tasks"])
app.config_from_object("django.conf:settings", namespace="CELERY")
servers = {"broker_url": os.environ["TEST_BROKER"], "result_backend": RESULTS[WHOSE] or app.conf.result_backend}
app.conf.update(DEFAULT_TEST_CONFIG | servers)
app.set_default()
app.loader.import_default_modules()

from t.integration.tasks import ClassBasedAutoRetryTask  # type: ignore[import-not-found]  # noqa: E402

app.register_task(ClassBasedAutoRetryTask())
