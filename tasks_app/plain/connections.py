"""Database connections are kept from task to task, for speed, and dropped when they may be broken."""

from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.signals import task_failure, task_prerun
from django.db import DatabaseError, InterfaceError, connections


@task_prerun.connect
def drop_dead_connections(task: Any = None, **kwargs: Any) -> None:
    """Before a task: a connection that the database has closed since the last task is replaced."""
    if getattr(task.request, "is_eager", False):
        return
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.in_atomic_block and not connection.is_usable():
            connection.close()


@task_failure.connect
def drop_interrupted_connections(exception: BaseException | None = None, **kwargs: Any) -> None:
    """After a failure in the middle of a statement: the connection's state is unknown, so it is not used again."""
    if isinstance(exception, DatabaseError | InterfaceError | SoftTimeLimitExceeded):
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close()
