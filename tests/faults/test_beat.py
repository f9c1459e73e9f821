"""Two schedulers run, and each tick is fired once: whichever of them is killed, frozen, or without a broker."""

import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.db import transaction
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import TaskResult

from handbell.celery.scheduler import DatabaseScheduler, PeriodicEntry
from tests.plain import SECONDS
from tests.servers import Postgres, wait_for
from tests.system import Running, System

NOBODY = {"CELERY_BROKER_URL": "amqp://127.0.0.1:9/", "SECRET_KEY": "only for tests " * 4}


def make_a_task_for_every_second() -> None:
    every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
    PeriodicTask.objects.create(name="tick", task="tasks_app.tasks.fibonacci", args="[3]", interval=every)


def look_at_ticks() -> list[Any]:
    """How often the task has been fired, when each of its calls was made, and what their states are."""
    with transaction.atomic():
        rows: list[Any] = list(TaskResult.objects.filter(periodic_task_name="tick").order_by("date_created"))
        count = PeriodicTask.objects.values_list("total_run_count", flat=True).get(name="tick")
    return [count, [row.date_created.isoformat() for row in rows], [row.status for row in rows]]


def fired(system: System) -> list[datetime]:
    """When each tick was fired; that each was fired once."""
    count, times, _ = system.call(look_at_ticks)
    moments = [datetime.fromisoformat(text) for text in times]
    assert len(moments) == count
    gaps = [(after - before).total_seconds() for before, after in pairwise(moments)]
    assert all(gap > 0.5 for gap in gaps), gaps  # another firing halves a second; a slow machine does not
    return moments


def calls(beat: Running) -> int:
    return beat.output().count("tick is called")


def wait_for_calls(count: int, *beats: Running) -> None:
    """Until these schedulers together have called it so many times more."""
    seen = sum(map(calls, beats))
    wait_for(lambda: sum(map(calls, beats)) >= seen + count, f"{count} more calls", SECONDS)


def wait_until_it_runs(*beats: Running) -> None:
    wait_for(lambda: all("beat: Starting" in beat.output() for beat in beats), "beat runs", SECONDS)


@pytest.mark.core
def test_with_two_schedulers_each_tick_is_fired_once(system: System) -> None:
    system.call(make_a_task_for_every_second)
    with system.process("celery", "beat") as first, system.process("celery", "beat") as second:
        wait_until_it_runs(first, second)
        wait_for_calls(8, first, second)
        assert len(fired(system)) >= 8


def test_kill_the_scheduler_that_fires_and_the_other_goes_on(system: System) -> None:
    system.call(make_a_task_for_every_second)
    with system.process("celery", "beat") as first:
        wait_for_calls(2, first)
        with system.process("celery", "beat") as second:
            wait_until_it_runs(second)
            first.process.kill()
            wait_for_calls(2, second)
            fired(system)


def test_a_scheduler_that_was_frozen_fires_nothing_again(system: System) -> None:
    system.call(make_a_task_for_every_second)
    with system.process("celery", "beat") as first:
        wait_for_calls(2, first)
        with system.process("celery", "beat") as second:
            wait_until_it_runs(second)
            freeze_between_ticks(first)
            wait_for_calls(3, second)
            first.process.send_signal(signal.SIGCONT)
            wait_for_calls(3, first, second)
            fired(system)
            second.process.kill()
            wait_for_calls(1, first)


def freeze_between_ticks(beat: Running) -> None:
    """Just after a tick: SQLite's lock is not held."""
    wait_for_calls(1, beat)
    beat.process.send_signal(signal.SIGSTOP)


class Freezes(DatabaseScheduler):
    """A scheduler that freezes once, in the middle of a tick."""

    has_frozen = False

    def _call(self, entry: PeriodicEntry) -> Any:
        if entry.name == "tick" and not self.has_frozen:
            self.has_frozen = True
            print("frozen", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        return super()._call(entry)


def run_one_that_freezes() -> None:
    scheduler = Freezes(app=current_app)
    while True:
        time.sleep(min(max(scheduler.tick(), 0), 0.1))


@pytest.mark.rabbitmq
def test_a_scheduler_frozen_in_the_middle_of_a_tick_loses_it(make_system: Callable[[str], System]) -> None:
    """PostgreSQL only: on SQLite, it would hold the lock of the whole database for as long."""
    system = make_system("postgres-rabbitmq")
    system.call(make_a_task_for_every_second)
    freezes = "from tests.faults.test_beat import run_one_that_freezes; run_one_that_freezes()"
    with system.process("shell", "--no-imports", "-v0", "-c", freezes) as frozen:
        wait_for(lambda: "frozen" in frozen.output(), "it has frozen", SECONDS)
        with system.process("celery", "beat") as beat:
            wait_until_it_runs(beat)
            wait_for_calls(2, beat)
            frozen.process.send_signal(signal.SIGCONT)
            wait_for(lambda: "tick is due, but" in frozen.output(), "the frozen one has lost its tick", SECONDS)
            fired(system)


def test_without_a_broker_ticks_are_kept_and_run_later(system: System) -> None:
    system.call(make_a_task_for_every_second)
    with System(system.folder, {**system.environment, **NOBODY}).process("celery", "beat") as beat:
        wait_for_calls(3, beat)
    count, _, states = system.call(look_at_ticks)
    assert states == ["PENDING"] * count
    with system.worker("-Q", "high", "-c", "1"):
        wait_for(lambda: system.call(look_at_ticks)[2] == ["SUCCESS"] * count, "they have run", SECONDS)


def test_a_database_that_goes_away_delays_a_tick(make_system: Callable[[str], System], tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres")
    system = make_system("sqlite-valkey")
    system.environment |= {"DATABASE_URL": server.create_database("away"), "SECRET_KEY": NOBODY["SECRET_KEY"]}
    try:
        assert system.manage("migrate", timeout=SECONDS).returncode == 0
        system.call(make_a_task_for_every_second)
        with system.process("celery", "beat") as beat:
            for _ in range(3):
                wait_for_calls(1, beat)
                server.restart()
            wait_for_calls(1, beat)
            fired(system)
    finally:
        server.stop()
