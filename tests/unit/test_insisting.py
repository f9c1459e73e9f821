"""A database that stays away makes no failure of a task that has succeeded."""

import os
from collections.abc import Callable

import pytest
from celery import current_app
from celery.app.task import Context
from celery.result import AsyncResult
from django.db import OperationalError

from tasks_app import tasks
from tasks_app.plain import insisting, ledger, results
from tasks_app.plain.insisting import insist_or_end
from tasks_app.plain.undone import Undone


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

    monkeypatch.setattr(insisting, "connection", Connection())
    monkeypatch.setattr(insisting, "INSIST_SECONDS", 0.1)
    return write


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> Undone:
    made = Undone()
    monkeypatch.setattr(insisting, "undone", made)
    return made


def test_a_child_ends_so_that_its_task_runs_again(away: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(ledger.Process, "main", 1)
    with pytest.raises(Ended, match=str(os.EX_TEMPFAIL)):
        insist_or_end(away, "The result")


def test_a_worker_with_threads_leaves_it_to_its_keeper(away: Callable[[], bool], undone: Undone) -> None:
    undone.kept = True
    back: list[bool] = []
    written = []

    def write() -> bool:
        written.append(bool(back) or away())
        return True

    assert insist_or_end(write, "The result")
    with pytest.raises(OperationalError):
        undone.do()
    back.append(True)
    undone.do()
    undone.do()
    assert written == [True]


def test_elsewhere_the_error_is_the_callers(away: Callable[[], bool], undone: Undone) -> None:
    assert not undone.kept
    with pytest.raises(OperationalError):
        insist_or_end(away, "The result")


def test_what_fails_for_another_reason_is_given_up_and_holds_up_nothing() -> None:
    done, waiting = [], Undone()
    waiting.see_to(lambda: 1 // 0)
    waiting.see_to(lambda: done.append(1))
    with pytest.raises(ZeroDivisionError):
        waiting.do()
    waiting.do()
    assert done == [1]


@pytest.mark.django_db
def test_an_end_is_final() -> None:
    result: AsyncResult[int] = tasks.fibonacci.delay(30)
    backend = current_app.backend
    backend.mark_as_done(result.id, 1, Context(id=result.id))
    backend.mark_as_failure(result.id, ValueError("late"), request=Context(id=result.id))
    backend.store_result(result.id, {"done": 0.5}, "HALFWAY")
    backend.mark_as_revoked(result.id, request=Context(id=result.id))

    assert (result.state, result.get()) == ("SUCCESS", 1)
    assert isinstance(backend, results.DatabaseBackend)
