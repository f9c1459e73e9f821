"""Where clocks are put forward or back, every tick is fired once: none twice, and none that its day has is left out."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import current_app
from django_celery_beat import models, schedulers, tzcrontab
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from handbell.celery.scheduler import DatabaseScheduler, PeriodicEntry
from handbell.models import Call
from tasks_app import tasks

pytestmark = pytest.mark.django_db
BERLIN = ZoneInfo("Europe/Berlin")
FORWARD = datetime(2026, 3, 28, 23, tzinfo=BERLIN)  # in the following night 02:00 becomes 03:00
BACK = datetime(2026, 10, 24, 23, tzinfo=BERLIN)  # in the following night 03:00 becomes 02:00
MINUTE = timedelta(minutes=1)


class Clock:
    now = FORWARD.astimezone(UTC)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    monkeypatch.setattr(schedulers, "close_old_connections", lambda: None)
    monkeypatch.setattr(tzcrontab.TzAwareCrontab, "nowfunc", lambda self: Clock.now.astimezone(self.tz))
    monkeypatch.setattr(PeriodicEntry, "_default_now", lambda self: Clock.now.astimezone(self.app.timezone))
    monkeypatch.setattr(models, "now", lambda: Clock.now)
    PeriodicTask.objects.all().delete()


def sunday(times: str) -> list[str]:
    words = iter(times.split())
    return [f"Sun {time} {zone}" for time, zone in zip(words, words, strict=True)]


def ticks(night: datetime, hours: int, **schedule: Any) -> list[str]:
    """When a task with this schedule is fired in the night, by the clock on the wall, looked at every minute."""
    Clock.now = night.astimezone(UTC)
    schedule.setdefault("last_run_at", Clock.now - MINUTE)
    PeriodicTask.objects.create(name="it", task=tasks.fibonacci.name, args="[3]", **schedule)
    scheduler, fired, called = DatabaseScheduler(app=current_app), [], 0
    for _ in range(hours * 60):
        (entry,) = [entry for entry in scheduler.schedule.values() if entry.name == "it"]
        scheduler.is_due(entry)
        if Call.objects.count() > called:
            called = Call.objects.count()
            fired.append(Clock.now.astimezone(BERLIN).strftime("%a %H:%M %Z"))
        Clock.now += MINUTE
    return fired


def crontab(minute: str, hour: str) -> dict[str, Any]:
    return {"crontab": CrontabSchedule.objects.create(minute=minute, hour=hour, timezone=BERLIN)}


def every(count: int, period: str) -> dict[str, Any]:
    return {"interval": IntervalSchedule.objects.create(every=count, period=period)}


@pytest.mark.parametrize(
    ("night", "schedule", "hours", "expected"),
    [
        (FORWARD, lambda: crontab("30", "2"), 30, ["Sun 03:30 CEST", "Mon 02:30 CEST"]),  # there is no 02:30
        (BACK, lambda: crontab("30", "2"), 30, ["Sun 02:30 CEST", "Mon 02:30 CET"]),  # there are two
        (FORWARD, lambda: crontab("30", "4"), 30, ["Sun 04:30 CEST", "Mon 04:30 CEST"]),
        (BACK, lambda: crontab("30", "4"), 24, ["Sun 04:30 CET"]),
        (
            FORWARD,
            lambda: crontab("0", "*"),
            5,
            ["Sat 23:00 CET", *sunday("00:00 CET 01:00 CET 03:00 CEST 04:00 CEST")],
        ),
        (BACK, lambda: crontab("0", "*"), 5, ["Sat 23:00 CEST", *sunday("00:00 CEST 01:00 CEST 02:00 CEST")]),
        (FORWARD, lambda: every(2, "hours"), 6, sunday("00:59 CET 03:59 CEST 05:59 CEST")),
        (BACK, lambda: every(2, "hours"), 6, sunday("00:59 CEST 02:59 CEST 03:59 CET")),
    ],
)
def test_each_tick_is_fired_once(night: datetime, schedule: Callable[[], Any], hours: int, expected: list[str]) -> None:
    assert ticks(night, hours, **schedule()) == expected


def test_a_tick_that_was_missed_for_hours_is_fired_at_the_start_and_not_in_the_next_night() -> None:
    night = BACK - timedelta(days=10)
    missed_at = datetime(2026, 10, 14, 2, 30, tzinfo=BERLIN)
    fired = ticks(night, 30, last_run_at=missed_at - timedelta(days=1), **crontab("30", "2"))

    assert fired == ["Wed 23:00 CEST", "Thu 02:30 CEST", "Fri 02:30 CEST"]
