"""A database that stays away makes no failure of a task that has succeeded."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from celery import current_app
from celery.app.task import Context
from celery.result import AsyncResult
from django.db import OperationalError

from handbell.common import db_retry, outages, write_backlog
from handbell.common.db_retry import write_or_exit
from handbell.common.write_backlog import MAX_FAILURES, MAX_WRITES, WriteBacklog
from tasks_app import tasks


class Ended(BaseException):
    """Instead of the end of this process."""


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A write that finds no database, outside of any transaction."""

    def write() -> bool:
        raise OperationalError("gone")

    class Connection:
        in_atomic_block = False

        def close(self) -> None:
            """There is none."""

    for module in (outages, db_retry, write_backlog):
        monkeypatch.setattr(module, "connection", Connection())
    monkeypatch.setattr(db_retry, "RETRY_SECONDS", 0.1)
    return write


@pytest.fixture
def backlog(monkeypatch: pytest.MonkeyPatch) -> WriteBacklog:
    made = WriteBacklog()
    monkeypatch.setattr(db_retry, "write_backlog", made)
    return made


def test_a_child_process_ends_so_that_its_task_runs_again(
    away: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(db_retry, "is_main_process", lambda: False)
    with pytest.raises(Ended, match=str(os.EX_TEMPFAIL)):
        write_or_exit(away, "The result")


def test_a_worker_with_threads_leaves_it_to_its_backlog(away: Callable[[], bool], backlog: WriteBacklog) -> None:
    backlog.is_served = True
    back: list[bool] = []
    written = []

    def write() -> bool:
        written.append(bool(back) or away())
        return True

    assert write_or_exit(write, "The result") is None
    assert backlog.flush()
    back.append(True)
    assert not backlog.flush()
    assert written == [True]


def test_elsewhere_the_error_is_the_callers(away: Callable[[], bool], backlog: WriteBacklog) -> None:
    assert not backlog.is_served
    with pytest.raises(OperationalError):
        write_or_exit(away, "The result")


def test_what_fails_for_another_reason_is_dropped_and_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done, backlog = [], WriteBacklog()
    backlog.add(lambda: 1 // 0)
    backlog.add(lambda: done.append(1))
    assert not backlog.flush()
    assert done == [1]
    assert "Something could not be written, and is dropped." in caplog.text


def test_one_that_always_fails_holds_up_nothing_and_is_dropped_in_the_end(away: Callable[[], bool]) -> None:
    done: list[Any] = []
    backlog = WriteBacklog()
    backlog.add(away)
    for number in range(MAX_FAILURES - 1):
        backlog.add(partial(done.append, number))
        assert backlog.flush()
    backlog.add(partial(done.append, "last"))
    assert not backlog.flush()
    assert done == [*range(MAX_FAILURES - 1), "last"]


def test_while_the_database_is_away_nothing_is_dropped_and_the_order_stays(away: Callable[[], bool]) -> None:
    done: list[int] = []
    is_back: list[bool] = []
    backlog = WriteBacklog()

    def write(number: int) -> None:
        done.append(number) if is_back else away()

    for number in range(5):
        backlog.add(partial(write, number))
    for _ in range(3 * MAX_FAILURES):
        assert backlog.flush()
    is_back.append(True)
    assert not backlog.flush()
    assert done == list(range(5))


def test_a_backlog_takes_only_so_much() -> None:
    backlog = WriteBacklog()
    assert all(backlog.add(int) for _ in range(MAX_WRITES))
    assert not backlog.add(int)


class SqliteError(Exception):
    """As SQLite's module raises one."""

    sqlite_errorname = "SQLITE_ERROR"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("no such table: nonsense", False), ("cannot start a transaction within a transaction", True)],
)
def test_an_interrupted_connection_is_replaced_and_a_wrong_statement_is_not_tried_again(
    text: str, expected: bool
) -> None:
    error = OperationalError(text)
    error.__cause__ = SqliteError(text)

    assert outages.is_outage(error) is expected


@pytest.mark.django_db
def test_an_end_is_final() -> None:
    result: AsyncResult[int] = tasks.fibonacci.delay(30)
    backend = current_app.backend
    backend.mark_as_done(result.id, 1, Context(id=result.id))
    backend.mark_as_failure(result.id, ValueError("late"), request=Context(id=result.id))
    backend.store_result(result.id, {"done": 0.5}, "HALFWAY")
    backend.mark_as_revoked(result.id, request=Context(id=result.id))

    assert (result.state, result.get()) == ("SUCCESS", 1)
