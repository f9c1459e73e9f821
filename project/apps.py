"""What this site adds when it starts: checks of its environment, and Django's logging for workers too."""

from typing import Any

from celery.signals import setup_logging
from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "project"

    def ready(self) -> None:
        from project import checks  # noqa: F401, PLC0415  (registers itself)

        setup_logging.connect(leave_logging_alone, weak=False)


def leave_logging_alone(**kwargs: Any) -> None:
    """That this is connected stops Celery from changing what Django's LOGGING has set up."""
