"""Database connections are kept from task to task, for speed, and dropped when they may be broken.

After a soft time limit that is done in task.py, before the failure is stored; here, if it was raised later than that.
"""

from typing import Any

from celery.signals import task_failure, task_prerun, worker_init
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections

from handbell.celery.task import is_recorded
from handbell.common.connections import close_connections, close_left_open, in_transactions


class _Process:
    is_of_worker = False  # where no transaction is open between tasks; in tests that run their tasks there may be one


@worker_init.connect
def note_worker(**kwargs: Any) -> None:
    _Process.is_of_worker = True


@task_prerun.connect
def drop_dead_connections(task: Any = None, **kwargs: Any) -> None:
    """Before a task: a connection that the database has closed since the last task is replaced.

    A recorded task begins with a claim, which notices by itself: that saves a round trip.
    """
    if getattr(task.request, "is_eager", False):
        return
    if _Process.is_of_worker:
        close_left_open()
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
        close_connections(but=in_transactions())
