"""Composition: the settings, the Celery app, the addresses, and the entry points of web servers."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
