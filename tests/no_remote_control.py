"""The project's settings, with Celery's remote control switched off."""

from project.settings import *  # noqa: F403

CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_IMPORTS = ["tests.launches"]
