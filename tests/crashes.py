"""Tasks whose process is killed at a chosen statement to the database, the first time that they run.

`at` counts from the end of the task: 1 is just before the first statement that follows, 2 just before the second, and
so on. What a statement did before a commit that never came is the same as if it had not been there.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from celery import Task, chain, shared_task
from celery.signals import task_prerun
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from tests.plain import add, lines, note


class _Kill:
    moments_left = 0  # 0: never


def kill_at(at: int, path: str) -> None:
    """Have this process killed, unless that has happened before for the same path."""
    note(path, os.getpid())
    if len(lines(path)) == 1:
        _Kill.moments_left = at


def _pass_a_moment() -> None:
    _Kill.moments_left -= 1
    if _Kill.moments_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _before_a_statement(execute: Callable[..., Any], *arguments: Any) -> Any:
    _pass_a_moment()
    return execute(*arguments)


@receiver(connection_created)
def _watch(connection: Any, **kwargs: Any) -> None:
    connection.execute_wrappers.append(_before_a_statement)


@task_prerun.connect
def _begin(**kwargs: Any) -> None:
    _Kill.moments_left = 0  # what was to be killed before has ended


@shared_task(queue="cpu", bind=True)
def retried(self: Task[..., Any], at: int, path: str) -> str:
    if self.request.retries:
        return "retried"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        kill_at(at, path)
        raise self.retry(countdown=0)


@shared_task(queue="cpu", bind=True)
def replaced(self: Task[..., Any], at: int, path: str) -> Any:
    kill_at(at, path)
    return self.replace(chain(add.s(1, 1), add.s(1)))


@shared_task(queue="cpu")
def ended(at: int, path: str) -> int:
    kill_at(at, path)
    return 1


@shared_task(queue="cpu")
def failed(at: int, path: str) -> None:
    kill_at(at, path)
    raise ValueError(path)


@shared_task(queue="cpu")
def count_call(*args: Any, path: str) -> list[Any]:
    """What follows a task: it leaves a line, and returns what it was given."""
    note(path, "called")
    return list(args)


@shared_task(queue="cpu")
def count_failure(task_id: str, path: str) -> None:
    """An errback that is sent."""
    note(path, task_id)
