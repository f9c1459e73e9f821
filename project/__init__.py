"""Composition: settings, the Celery app, URLs and the processes that make one running system."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
