"""The admin pages. The ledger can be viewed and steered, not edited; periodic tasks and schedules can be edited."""

from django.apps import apps

from handbell.admin import groups, jobs, lanes, launches, results

__all__ = ["groups", "jobs", "lanes", "launches", "results"]

if apps.is_installed("django_celery_beat"):
    from handbell.admin import periodic

    __all__ += ["periodic"]
