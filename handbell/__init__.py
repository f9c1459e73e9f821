"""Handbell: a task engine for Django with Celery inside. `__all__` is everything that a project may use.

Errors and states are here at once. Everything else is loaded when it is first used, for most of it needs Django's app
registry: so `import handbell` works anywhere, also before Django is configured.
"""

from typing import TYPE_CHECKING, Any

from handbell import states
from handbell.errors import (
    ArgumentsTooLarge,
    BrokerUnavailable,
    HandbellError,
    ItemFailed,
    ItemTimedOut,
    JobRefused,
    LaneRefused,
    LaunchRefused,
    NotJson,
    OutsideLane,
    ProcessDied,
    ResultTooLarge,
    RowMissing,
    UnknownTask,
)

if TYPE_CHECKING:  # the same names from the same modules as in _LOADED_FROM
    from handbell.admin.base import ReadOnlyAdmin
    from handbell.celery.app import Celery
    from handbell.celery.status import status
    from handbell.common.broker import require_broker
    from handbell.common.secret_file import kept_secret
    from handbell.conf import settings_from_environment
    from handbell.isolated import launches
    from handbell.isolated.declare import IsolatedTask, isolated_task
    from handbell.models import Lane, Launch, Operation, SerialModel, outside_lanes
    from handbell.parallel.declare import Pipeline, over
    from handbell.parallel.job import Job
    from handbell.plain.enqueue import bulk
    from handbell.queues import CORES, ISOLATED_QUEUE, SERIAL_QUEUE, Queue
    from handbell.retention import delete_finished
    from handbell.serial import lanes
    from handbell.serial.declare import SerialTask, serial_task

__version__ = "0.1.0"
__all__ = [
    "CORES",
    "ISOLATED_QUEUE",
    "SERIAL_QUEUE",
    "ArgumentsTooLarge",
    "BrokerUnavailable",
    "Celery",
    "HandbellError",
    "IsolatedTask",
    "ItemFailed",
    "ItemTimedOut",
    "Job",
    "JobRefused",
    "Lane",
    "LaneRefused",
    "Launch",
    "LaunchRefused",
    "NotJson",
    "Operation",
    "OutsideLane",
    "Pipeline",
    "ProcessDied",
    "Queue",
    "ReadOnlyAdmin",
    "ResultTooLarge",
    "RowMissing",
    "SerialModel",
    "SerialTask",
    "UnknownTask",
    "bulk",
    "delete_finished",
    "isolated_task",
    "kept_secret",
    "lanes",
    "launches",
    "outside_lanes",
    "over",
    "require_broker",
    "serial_task",
    "settings_from_environment",
    "states",
    "status",
]

#: `from MODULE import NAME` is what happens when NAME is first used.
_LOADED_FROM = {
    "CORES": "handbell.queues",
    "Celery": "handbell.celery.app",
    "ISOLATED_QUEUE": "handbell.queues",
    "IsolatedTask": "handbell.isolated.declare",
    "Job": "handbell.parallel.job",
    "Lane": "handbell.models",
    "Launch": "handbell.models",
    "Operation": "handbell.models",
    "Pipeline": "handbell.parallel.declare",
    "Queue": "handbell.queues",
    "ReadOnlyAdmin": "handbell.admin.base",
    "SERIAL_QUEUE": "handbell.queues",
    "SerialModel": "handbell.models",
    "SerialTask": "handbell.serial.declare",
    "bulk": "handbell.plain.enqueue",
    "delete_finished": "handbell.retention",
    "isolated_task": "handbell.isolated.declare",
    "kept_secret": "handbell.common.secret_file",
    "lanes": "handbell.serial",
    "launches": "handbell.isolated",
    "outside_lanes": "handbell.models",
    "over": "handbell.parallel.declare",
    "require_broker": "handbell.common.broker",
    "serial_task": "handbell.serial.declare",
    "settings_from_environment": "handbell.conf",
    "status": "handbell.celery.status",
}

if not TYPE_CHECKING:  # with it, a type checker would take every misspelt name for a public one

    def __getattr__(name: str) -> Any:
        if name not in _LOADED_FROM:
            raise AttributeError(f"module 'handbell' has no attribute {name!r}")
        value = globals()[name] = _load(name)
        return value


def _load(name: str) -> Any:
    """
    Raises:
        HandbellError: Django's settings or apps are not there yet; the message says what to do.
    """
    from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured  # noqa: PLC0415  (only needed now)

    try:
        return getattr(__import__(_LOADED_FROM[name], fromlist=[name]), name)
    except (AppRegistryNotReady, ImproperlyConfigured) as error:
        raise HandbellError(
            f"handbell.{name} needs Django: set DJANGO_SETTINGS_MODULE and call django.setup() first, or use it in a "
            f"module that Django loads, such as an app's tasks.py. Django says: {error}"
        ) from error
    except RuntimeError as error:
        if "INSTALLED_APPS" not in str(error):
            raise
        raise HandbellError(
            f"handbell.{name} needs 'handbell' and 'django_celery_results' in INSTALLED_APPS. Django says: {error}"
        ) from error


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
