"""Database connections are kept from task to task, for speed, and dropped when they may be broken.

After a soft time limit that is done in task.py, before the failure is stored.
"""

from typing import Any

from celery.signals import task_failure, task_prerun
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections

from handbell.celery.task import drop_connections, is_recorded


@task_prerun.connect
def drop_dead_connections(task: Any = None, **kwargs: Any) -> None:
    """Before a task: a connection that the database has closed since the last task is replaced.

    A recorded task begins with a claim, which notices by itself: that saves a round trip.
    """
    if getattr(task.request, "is_eager", False):
        return
    claimed = is_recorded(task, task.request.ignore_result)
    for connection in connections.all(initialized_only=True):
        if claimed and connection.alias == DEFAULT_DB_ALIAS:
            continue
        if connection.connection is not None and not connection.in_atomic_block and not connection.is_usable():
            connection.close()


@task_failure.connect
def drop_interrupted_connections(exception: BaseException | None = None, **kwargs: Any) -> None:
    """After an error of the database, the connection's state is unknown, so it is not used again."""
    if isinstance(exception, DatabaseError | InterfaceError):
        drop_connections()
