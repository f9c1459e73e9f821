"""A plugin for pytest: the library's own tests, as published, find our backend where they look for the library's."""

from typing import Any


class Name(str):
    """The name of a task, which the tests give for the task; Celery 5.7 asks the task for more than older ones did."""

    __slots__ = ()
    ignore_result = False


def pytest_collection() -> None:
    from celery.worker import request  # noqa: PLC0415  (all of this needs the settings)
    from django_celery_results import backends  # noqa: PLC0415
    from django_celery_results.backends import database  # noqa: PLC0415

    from handbell.celery.backend import DatabaseBackend  # noqa: PLC0415

    backends.DatabaseBackend = database.DatabaseBackend = DatabaseBackend
    celerys: Any = request.Request

    def with_a_name(message: Any, task: str, **options: Any) -> Any:
        return celerys(message, task=Name(task), **options)

    request.Request = with_a_name  # type: ignore[assignment,misc]
