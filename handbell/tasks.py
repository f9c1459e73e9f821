"""The backend of Django's own Tasks framework: `TASKS = {"default": {"BACKEND": "handbell.tasks.HandbellBackend"}}`.

Celery looks for a module of this name in every app, so it can be imported where there is no such framework, too.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or find_spec("django.tasks") or find_spec("django_tasks"):
    from handbell.celery.django_backend import HandbellBackend, HandbellTask, task

    __all__ = ["HandbellBackend", "HandbellTask", "task"]
else:

    def __getattr__(name: str) -> Any:
        if name in {"HandbellBackend", "HandbellTask", "task"}:
            raise ImportError(
                f"handbell.tasks.{name} needs Django's Tasks framework: that of Django 6, or on Django 5.2 the package "
                "django-tasks. Install it with pip install django-tasks."
            )
        raise AttributeError(name)
