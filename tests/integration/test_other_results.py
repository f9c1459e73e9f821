"""Results of plain tasks in another backend: Celery's own semantics, with the ledger for what is serial or isolated."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from celery import chord, current_app, group
from celery.result import AsyncResult
from django.db import transaction
from django_celery_results.models import TaskResult
from kombu.exceptions import OperationalError

from handbell.celery.backend import DatabaseBackend
from handbell.embedded.broker import EmbeddedBroker
from tasks_app.tasks import increment_value
from tests.launches import nothing
from tests.plain import SECONDS, add, calls_left, fail, lines, take, total
from tests.servers import Memcached
from tests.system import System

WORKER = ("-Q", "cpu,serial,isolated", "-c", "1", "--include=tests.plain,tests.launches")


def run_plain_tasks() -> list[Any]:
    bad = fail.delay("because")
    return [
        add.delay(1, 2).get(timeout=SECONDS),
        group(add.s(number, 1) for number in range(5)).delay().get(timeout=SECONDS),
        chord((add.s(number, 1) for number in range(5)), total.s()).delay().get(timeout=SECONDS),
        repr(bad.get(timeout=SECONDS, propagate=False)),
        bad.state,
        AsyncResult("nobody").state,
    ]


def call_in_a_transaction(path: str) -> list[str]:
    with transaction.atomic():
        result = take.delay(0, path, "late")
        with current_app.producer_pool.acquire(block=True) as producer:  # sent at once, and run before what came before
            take.apply_async((0, path, "early"), producer=producer).get(timeout=SECONDS)
        before_the_commit = lines(path)
    assert result.get(timeout=SECONDS) == "late"
    return before_the_commit


def call_and_roll_back(path: str) -> int:
    with transaction.atomic():
        take.delay(0, path, "rolled back")
        transaction.set_rollback(True)
    return add.delay(1, 1).get(timeout=SECONDS)


def run_ledger_tasks() -> list[Any]:
    serial, isolated = increment_value.delay("visits"), nothing.delay(7)
    found = [serial.get(timeout=SECONDS), isolated.get(timeout=SECONDS)]
    return [*found, increment_value.AsyncResult(serial.id).state, nothing.AsyncResult(isolated.id).state]


def rows_in_the_database() -> list[int]:
    return [TaskResult.objects.count(), calls_left()]


def everything_works(system: System, path: str) -> None:
    expected = [3, [1, 2, 3, 4, 5], 15, "ValueError('because')", "FAILURE", "PENDING"]
    assert system.call(run_plain_tasks) == expected
    assert system.call(call_in_a_transaction, path) == ["began-early", "ended-early"]
    assert system.call(call_and_roll_back, path) == 2
    assert lines(path) == ["began-early", "ended-early", "began-late", "ended-late"]
    assert system.call(run_ledger_tasks) == [1, 7, "SUCCESS", "SUCCESS"]


@pytest.mark.memcached
def test_results_in_memcached(system: System, memcached: Memcached, tmp_path: Path) -> None:
    system.environment["CELERY_RESULT_BACKEND"] = memcached.url()
    with system.worker(*WORKER):
        everything_works(system, str(tmp_path / "ran"))
        assert system.call(rows_in_the_database) == [0, 0]


def test_results_in_the_embedded_valkey(sqlite_system: System, tmp_path: Path) -> None:
    sqlite_system.environment["CELERY_RESULT_BACKEND"] = EmbeddedBroker(sqlite_system.folder / "broker").url
    with sqlite_system.worker(*WORKER):
        everything_works(sqlite_system, str(tmp_path / "ran"))
        assert sqlite_system.call(rows_in_the_database) == [0, 0]


def is_our_backend() -> bool:
    return type(current_app.backend) is DatabaseBackend and current_app.conf.task_track_started


def states_before_and_after() -> list[str]:
    result = add.delay(1, 2)
    return [result.state, str(result.get(timeout=SECONDS)), result.state]


def test_the_librarys_name_for_the_database_gives_our_backend(system: System) -> None:
    """With `task_track_started`, which the project sets together with a result backend."""
    system.environment["CELERY_RESULT_BACKEND"] = "django-db"
    assert system.call(is_our_backend) is True
    with system.worker(*WORKER):
        state, *rest = system.call(states_before_and_after)
    assert state in {"PENDING", "STARTED", "SUCCESS"}
    assert rest == ["3", "SUCCESS"]
    assert system.call(rows_in_the_database) == [1, 0]


def call_without_a_broker() -> list[str]:
    answers = []
    for scope in (nullcontext(), transaction.atomic()):
        try:
            with scope:
                add.delay(1, 1)
        except OperationalError:
            answers.append("refused")
    return answers


def test_a_broker_that_is_down_is_said_to_the_caller(sqlite_system: System) -> None:
    """Nothing remembers the call, so nobody could send it later."""
    nobody = {"CELERY_BROKER_URL": "amqp://127.0.0.1:9/", "SECRET_KEY": "only for tests " * 4}
    sqlite_system.environment |= {**nobody, "CELERY_RESULT_BACKEND": "cache+memory://"}
    assert sqlite_system.call(call_without_a_broker) == ["refused", "refused"]
