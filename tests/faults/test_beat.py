"""Two schedulers run, and each tick is fired once: whichever of them is killed, frozen, or without a broker."""

import signal
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Postgres, wait_for
from tests.system import Running, System

EVERY_SECOND = """
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
PeriodicTask.objects.create(name="tick", task="tasks_app.tasks.fibonacci", args="[3]", interval=every)
answer = None"""
FIRED = """
from django.db import transaction
from django_celery_beat.models import PeriodicTask
from django_celery_results.models import TaskResult
with transaction.atomic():
    rows = TaskResult.objects.filter(periodic_task_name="tick").order_by("date_created")
    answer = [PeriodicTask.objects.values_list("total_run_count", flat=True).get(name="tick"),
              [row.date_created.isoformat() for row in rows], [row.status for row in rows]]"""
FREEZES = """
import os, signal, time
from celery import current_app
from tasks_app.plain.scheduler import DatabaseScheduler

class Freezes(DatabaseScheduler):
    def _call(self, entry):
        if entry.name == "tick" and not hasattr(self, "frozen"):
            self.frozen = print("frozen", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        return super()._call(entry)

scheduler = Freezes(app=current_app)
while True:
    time.sleep(min(max(scheduler.tick(), 0), 0.1))
"""
NOBODY = {"CELERY_BROKER_URL": "amqp://127.0.0.1:9/", "SECRET_KEY": "only for tests " * 4}


def calls(beat: Running) -> int:
    return beat.output().count("tick is called")


def fired(system: System) -> list[datetime]:
    """When each tick was fired; that each was fired once."""
    count, times, _ = system.python(FIRED)
    moments = [datetime.fromisoformat(text) for text in times]
    assert len(moments) == count
    gaps = [(after - before).total_seconds() for before, after in pairwise(moments)]
    assert all(gap > 0.9 for gap in gaps), gaps
    return moments


def test_with_two_schedulers_each_tick_is_fired_once(system: System) -> None:
    system.python(EVERY_SECOND)
    with system.process("celery", "beat") as first, system.process("celery", "beat") as second:
        wait_for(lambda: min(beat.output().count("beat: Starting") for beat in (first, second)) == 1, "both run")
        seen = calls(first) + calls(second)
        wait_for(lambda: calls(first) + calls(second) >= seen + 8, "they have fired")
        moments = fired(system)[seen:]
        assert max((after - before).total_seconds() for before, after in pairwise(moments)) < 3


def test_kill_the_scheduler_that_fires_and_the_other_goes_on(system: System) -> None:
    system.python(EVERY_SECOND)
    with system.process("celery", "beat") as first:
        wait_for(lambda: calls(first) > 1, "the first fires")
        with system.process("celery", "beat") as second:
            wait_for(lambda: "beat: Starting" in second.output(), "the second runs")
            first.process.kill()
            seen = calls(second)
            wait_for(lambda: calls(second) >= seen + 2, "the second fires", 10)
            fired(system)


def test_a_scheduler_that_was_frozen_fires_nothing_again(system: System) -> None:
    system.python(EVERY_SECOND)
    with system.process("celery", "beat") as first:
        wait_for(lambda: calls(first) > 1, "the first fires")
        with system.process("celery", "beat") as second:
            wait_for(lambda: "beat: Starting" in second.output(), "the second runs")
            freeze_asleep(first)
            seen = calls(second)
            wait_for(lambda: calls(second) >= seen + 3, "the second fires", 10)
            first.process.send_signal(signal.SIGCONT)
            seen = calls(first) + calls(second)
            wait_for(lambda: calls(first) + calls(second) >= seen + 3, "they fire")
            fired(system)
            second.process.kill()
            seen = calls(first)
            wait_for(lambda: calls(first) > seen, "the first fires again", 10)


def freeze_asleep(beat: Running) -> None:
    """Just after a tick: SQLite's lock is not held."""
    seen = calls(beat)
    wait_for(lambda: calls(beat) > seen, "it fires")
    beat.process.send_signal(signal.SIGSTOP)


@pytest.mark.rabbitmq
def test_a_scheduler_frozen_in_the_middle_of_a_tick_loses_it(make_system: Callable[[str], System]) -> None:
    """PostgreSQL only: on SQLite, it would hold the lock of the whole database for as long."""
    system = make_system("postgres-rabbitmq")
    system.python(EVERY_SECOND)
    with system.process("shell", "--no-imports", "-v0", "-c", FREEZES) as frozen:
        wait_for(lambda: "frozen" in frozen.output(), "it has frozen")
        with system.process("celery", "beat") as beat:
            wait_for(lambda: "beat: Starting" in beat.output(), "the other runs")
            wait_for(lambda: calls(beat) > 1, "the other fires", 10)
            frozen.process.send_signal(signal.SIGCONT)
            wait_for(lambda: "tick is due, but" in frozen.output(), "the frozen one has lost its tick")
            fired(system)


def test_without_a_broker_ticks_are_kept_and_run_later(system: System) -> None:
    system.python(EVERY_SECOND)
    with System(system.folder, {**system.environment, **NOBODY}).process("celery", "beat") as beat:
        wait_for(lambda: calls(beat) >= 3, "it fires all the same")
    count, _, states = system.python(FIRED)
    assert states == ["QUEUED"] * count
    with system.worker("-Q", "high", "-c", "1"):
        wait_for(lambda: system.python(FIRED)[2] == ["SUCCESS"] * count, "they have run")


def test_a_database_that_goes_away_delays_a_tick(make_system: Any, tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres")
    system = make_system("sqlite-valkey")
    system.environment |= {"DATABASE_URL": server.create_database("away"), "SECRET_KEY": NOBODY["SECRET_KEY"]}
    try:
        assert system.manage("migrate").returncode == 0
        system.python(EVERY_SECOND)
        with system.process("celery", "beat") as beat:
            for _ in range(3):
                seen = calls(beat)
                wait_for(lambda seen=seen: calls(beat) > seen, "it fires", 10)  # type: ignore[misc]
                server.restart()
            seen = calls(beat)
            wait_for(lambda: calls(beat) > seen, "it fires again", 10)
            fired(system)
    finally:
        server.stop()
