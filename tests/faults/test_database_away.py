"""A database that is away: however it is, and for longer than the lease, nobody's work begins a second time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from celery import shared_task
from django_celery_results.models import TaskResult

from handbell import Job, Launch, isolated_task, over, serial_task
from handbell.models import Operation
from tests.plain import SECONDS, calls_left, lines, note, until
from tests.servers import Postgres, wait_for
from tests.system import System

LEASE_SECONDS = 3
AWAY_SECONDS = 7.0  # more than two leases
TASK_SECONDS = AWAY_SECONDS + 4


def begin_and_end(path: str, what: str) -> None:
    note(path, f"began-{what}")
    time.sleep(TASK_SECONDS)
    note(path, f"ended-{what}")


@shared_task(queue="cpu")
def take_long(path: str, what: str) -> None:
    begin_and_end(path, what)


@serial_task(key="long", external=True)
def take_long_outside(path: str) -> None:
    begin_and_end(path, "operation")


@isolated_task(timeout=60)
def take_long_in_isolation(path: str) -> None:
    begin_and_end(path, "launch")


def begin_one_of_each(path: str) -> None:
    for number in range(2):
        take_long.delay(path, f"call-{number}")
    take_long_outside.delay(path)
    take_long_in_isolation.launch(path)
    over([path]).map(take_long, "item").start("cpu")


def outcomes() -> list[Any]:
    """The states of all of them, once they have ended."""
    until(
        lambda: Job.objects.get().finished and Launch.objects.get().finished_at and Operation.objects.get().finished_at
    )
    until(lambda: not calls_left(), SECONDS)
    plain = TaskResult.objects.filter(task_name=take_long.name).values_list("status", flat=True)
    return [*plain, Operation.objects.get().status, Launch.objects.get().status, Job.objects.get().status]


@contextmanager
def crashed(server: Postgres) -> Iterator[None]:
    server.crash()
    yield
    server.start()


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """It keeps its connections, and answers nothing."""
    stopped = server.processes
    for process in stopped:
        process.suspend()
    yield
    for process in stopped:
        process.resume()


@contextmanager
def read_only(server: Postgres) -> Iterator[None]:
    """As a standby is that has taken over, until it is promoted."""
    set_read_only(server, "on")
    yield
    set_read_only(server, "off")


def set_read_only(server: Postgres, value: str) -> None:
    connection = psycopg2.connect(server.url(), options="-c default_transaction_read_only=off")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        cursor.execute("SELECT pg_reload_conf()")
    connection.close()


@pytest.mark.parametrize("away", [crashed, frozen, read_only])
def test_work_goes_on_while_the_database_is_away_and_nothing_begins_twice(
    away: Any, make_system: Any, tmp_path: Path
) -> None:
    server = Postgres(tmp_path / "postgres")
    system: System = make_system("postgres-rabbitmq")
    system.environment |= {
        "DATABASE_URL": server.create_database("away"),
        "HANDBELL_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    path = tmp_path / "runs"
    include = "--include=tests.faults.test_database_away"
    try:
        assert system.manage("migrate", timeout=SECONDS).returncode == 0
        with (
            system.worker("-Q", "cpu,serial", "-c", "4", "-n", "one@%h", include),
            system.worker("-Q", "isolated", "-c", "1", "-n", "two@%h", include),
        ):
            system.call(begin_one_of_each, str(path))
            wait_for(lambda: len(lines(path)) == 5, "all have begun", SECONDS)
            with away(server):
                time.sleep(AWAY_SECONDS)
            found = system.call(outcomes)
    finally:
        server.stop()
    assert found == ["SUCCESS", "SUCCESS", "succeeded", "succeeded", "succeeded"]
    kinds = ("call-0", "call-1", "operation", "launch", "item")
    assert sorted(lines(path)) == sorted(f"{what}-{kind}" for kind in kinds for what in ("began", "ended"))
