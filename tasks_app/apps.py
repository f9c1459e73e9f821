"""The Django app."""

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate


class TasksAppConfig(AppConfig):
    name = "tasks_app"
    verbose_name = "Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        import tasks_app.isolated.stopping  # noqa: PLC0415  (these connect Celery's signals)
        import tasks_app.plain.stopping  # noqa: F401, PLC0415
        from tasks_app import sweeper  # noqa: F401, PLC0415
        from tasks_app.plain import connections, keeper  # noqa: F401, PLC0415

        post_migrate.connect(make_lanes, sender=self)


def make_lanes(**kwargs: Any) -> None:
    """Give a new database its lanes; what it has already is left alone."""
    from tasks_app.models import LaneCount  # noqa: PLC0415  (needs the app registry)
    from tasks_app.serial import lanes  # noqa: PLC0415

    if not LaneCount.objects.exists():
        lanes.resize(settings.SERIAL_LANES)
