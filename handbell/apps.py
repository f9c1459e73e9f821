"""The Django app."""

from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_migrate


class HandbellConfig(AppConfig):
    name = "handbell"
    verbose_name = "Handbell"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        if not apps.is_installed("django_celery_results"):  # nothing below can be imported without it
            raise ImproperlyConfigured(
                "'django_celery_results' is not in INSTALLED_APPS. Add it: results are kept in its table."
            )
        # These register themselves: system checks, tasks, and what happens when a worker starts and stops.
        from handbell import checks, sweeper  # noqa: F401, PLC0415
        from handbell.celery import batch, connections, django_tasks, worker  # noqa: F401, PLC0415
        from handbell.common.databases import tune_databases  # noqa: PLC0415
        from handbell.isolated import supervise  # noqa: F401, PLC0415
        from handbell.parallel import work  # noqa: F401, PLC0415
        from handbell.serial import drain  # noqa: F401, PLC0415

        tune_databases()
        post_migrate.connect(create_lanes, sender=self)


def create_lanes(**kwargs: Any) -> None:
    """Create the lanes of a new database. A database that has lanes keeps them."""
    from handbell.conf import conf  # noqa: PLC0415
    from handbell.models import LaneCount  # noqa: PLC0415  (needs the app registry)
    from handbell.serial import lanes  # noqa: PLC0415

    if not LaneCount.objects.exists():
        lanes.resize(conf.SERIAL_LANES)
