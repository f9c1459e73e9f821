"""Every tick is fired once, by whichever scheduler takes it first; a tick that could not be fired is still due."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import current_app
from django.db import OperationalError
from django.utils import timezone
from django_celery_beat import schedulers
from django_celery_beat.models import ClockedSchedule, IntervalSchedule, PeriodicTask
from django_celery_results.models import TaskResult
from kombu.exceptions import OperationalError as BrokerError

from handbell.celery.scheduler import RETRY_SECONDS, DatabaseScheduler, PeriodicEntry
from handbell.models import Call, Launch, Operation
from tasks_app import tasks
from tests.unit.conftest import Message

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _only_what_the_test_makes(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    monkeypatch.setattr(schedulers, "close_old_connections", lambda: None)  # the test's transaction stays open
    PeriodicTask.objects.all().delete()


def make(name: str = "hourly", task: str = tasks.fibonacci.name, args: str = "[3]", **fields: Any) -> PeriodicTask:
    """A task for every hour, which was last run two hours ago."""
    if "clocked" not in fields:
        fields["interval"], _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.HOURS)
    fields.setdefault("last_run_at", timezone.now() - 2 * HOUR)
    made: PeriodicTask = PeriodicTask.objects.create(name=name, task=task, args=args, **fields)
    return made


def new() -> DatabaseScheduler:
    """A scheduler that has read everything, and has not looked for what is due."""
    scheduler = DatabaseScheduler(app=current_app)
    assert scheduler.schedule is not None
    return scheduler


def look(scheduler: DatabaseScheduler) -> float:
    """Let it fire whatever is due; seconds until its next look."""
    for _ in range(20):
        if seconds := scheduler.tick():
            return seconds
    raise AssertionError("it goes on and on")


def again(task: PeriodicTask) -> PeriodicTask:
    task.refresh_from_db()
    return task


def is_now(moment: datetime | None) -> bool:
    return moment is not None and timezone.now() - moment < timedelta(minutes=1)


def test_a_tick_is_a_call_in_the_ledger() -> None:
    task, scheduler = make(), new()

    assert look(scheduler) == 2
    assert look(scheduler) == 2

    row = TaskResult.objects.values_list("task_name", "status", "periodic_task_name")
    assert row.get(task_id=Call.objects.get().task_id) == (task.task, "PENDING", "hourly")
    assert again(task).total_run_count == 1
    assert is_now(task.last_run_at)


@pytest.mark.parametrize("last_run_at", [None, datetime(2020, 1, 1, tzinfo=timezone.get_default_timezone())])
def test_of_two_schedulers_one_fires(last_run_at: datetime | None) -> None:
    task = make(last_run_at=last_run_at)
    PeriodicTask.objects.update(date_changed=timezone.now() - 2 * HOUR)  # it counts from then if it never ran
    schedulers = [new(), new()]

    for scheduler in schedulers * 2:
        look(scheduler)

    assert Call.objects.count() == again(task).total_run_count == 1


def test_the_one_that_lost_fires_the_next_tick() -> None:
    make()
    first, second = new(), new()
    look(first)
    look(second)
    entry = second.schedule["hourly"]
    assert is_now(entry.last_run_at)

    entry.last_run_at = entry.read_run_at = timezone.now() - 2 * HOUR  # two hours later
    PeriodicTask.objects.update(last_run_at=entry.read_run_at)
    second.populate_heap()
    look(second)

    assert Call.objects.count() == 2


def test_a_clock_that_was_ahead_holds_up_the_next_tick_for_an_interval_at_most() -> None:
    """It has noted that the task was run in ten hours."""
    task = make(last_run_at=timezone.now() + 10 * HOUR)
    scheduler = new()
    entry = scheduler.schedule["hourly"]
    due, seconds = entry.is_due()
    assert not due
    assert 3500 < seconds <= 3600
    assert again(task).last_run_at == entry.read_run_at

    entry.last_run_at = timezone.now() - HOUR  # an hour later
    scheduler.populate_heap()
    look(scheduler)
    assert Call.objects.count() == 1
    assert is_now(again(task).last_run_at)


def test_one_whose_clock_is_behind_leaves_the_ticks_to_the_other() -> None:
    """All that it reads lies ahead of it; the other fires, and changes what it has read."""
    make(last_run_at=timezone.now() + HOUR)
    behind = new()
    entry = behind.schedule["hourly"]
    PeriodicTask.objects.update(last_run_at=timezone.now() + 2 * HOUR)  # the other has fired
    entry.last_run_at = timezone.now() - HOUR
    behind.populate_heap()
    look(behind)

    assert not Call.objects.exists()


def test_one_that_was_frozen_does_not_fire_what_others_have_fired() -> None:
    task, frozen = make(), new()
    due, _ = frozen.schedule["hourly"].is_due()
    assert due
    for _ in range(2):
        PeriodicTask.objects.update(last_run_at=timezone.now() - 2 * HOUR)
        look(new())
    ran_at = again(task).last_run_at

    look(frozen)

    assert Call.objects.count() == 2
    assert again(task).last_run_at == ran_at


def test_a_stale_time_is_never_written_back() -> None:
    task, scheduler = make(), new()
    look(scheduler)
    later = timezone.now() + HOUR
    PeriodicTask.objects.update(last_run_at=later, total_run_count=7)

    scheduler.sync()
    scheduler.close()

    assert (again(task).last_run_at, task.total_run_count) == (later, 7)


def test_the_librarys_scheduler_still_writes_it_back_so_ours_is_needed() -> None:
    task = make()
    scheduler = schedulers.DatabaseScheduler(app=current_app)
    scheduler.reserve(scheduler.schedule["hourly"])
    PeriodicTask.objects.update(last_run_at=timezone.now() + HOUR, total_run_count=7)

    scheduler.close()

    assert again(task).total_run_count == 1


@pytest.mark.parametrize("method", ["claim_tick", "refresh"])
def test_a_database_that_is_down_at_the_tick_delays_it(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task, scheduler = make(), new()
    with monkeypatch.context() as broken:
        broken.setattr(PeriodicEntry, method, failing(OperationalError("server closed the connection")))
        assert 0 < look(scheduler) <= RETRY_SECONDS
    assert "hourly is due, but: server closed the connection." in caplog.text

    bring_forward(scheduler)
    look(scheduler)

    assert Call.objects.count() == again(task).total_run_count == 1


def test_a_database_that_is_down_when_the_schedule_is_read_delays_the_edit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = new()
    look(scheduler)
    make("new")
    with monkeypatch.context() as broken:
        broken.setattr(DatabaseScheduler, "all_as_schedule", failing(OperationalError("it is starting up")))
        assert scheduler.tick() == RETRY_SECONDS
    assert "The schedule could not be read: it is starting up." in caplog.text

    look(scheduler)

    assert Call.objects.count() == 1


def test_a_call_that_is_not_recorded_is_made_once_the_broker_answers(
    monkeypatch: pytest.MonkeyPatch, sent: Callable[[], list[Message]]
) -> None:
    bare, recorded, scheduler = make("bare", "of.another.program"), make("recorded"), new()
    before = bare.last_run_at
    with monkeypatch.context() as broken:
        broken.setattr("handbell.celery.calls._send_unrecorded", failing(BrokerError("connection refused")))
        look(scheduler)
    assert [again(bare).last_run_at, bare.total_run_count, again(recorded).total_run_count] == [before, 0, 1]

    bring_forward(scheduler)
    look(scheduler)

    assert [again(bare).total_run_count, again(recorded).total_run_count] == [1, 1]
    assert [message.task for message in sent()].count("of.another.program") == 1


def test_a_message_that_fails_after_the_commit_gives_the_tick_back(monkeypatch: pytest.MonkeyPatch) -> None:
    task, scheduler = make(), new()
    before = task.last_run_at
    with monkeypatch.context() as broken:
        fails = failing(BrokerError("connection refused"))
        broken.setattr("handbell.celery.scheduler.transaction", CommitThen(fails))
        look(scheduler)

    assert (again(task).last_run_at, task.total_run_count) == (before, 0)


def test_a_call_that_can_never_be_made_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    wrong = make("wrong", queue="nonsense")
    right = make("right")

    look(new())

    assert Call.objects.count() == 1
    assert [again(wrong).total_run_count, again(right).total_run_count] == [1, 1]
    assert ("ERROR", "wrong was not called.") in [(r.levelname, r.getMessage()) for r in caplog.records]


def test_serial_and_isolated_tasks_are_rows_of_their_own() -> None:
    make("serial", tasks.increment_value.name, '["visits"]')
    make("isolated", tasks.call_stuck_partner.name, "[1]")

    for scheduler in (new(), new()):
        look(scheduler)

    assert (Operation.objects.count(), Launch.objects.count(), Call.objects.count()) == (1, 1, 0)


def test_a_task_that_runs_once_runs_once_and_is_disabled() -> None:
    task = make(one_off=True)
    at_once = make("clocked", clocked=ClockedSchedule.objects.create(clocked_time=timezone.now()), one_off=True)
    schedulers = [new(), new()]

    for scheduler in schedulers * 2:
        look(scheduler)

    assert Call.objects.count() == 2
    assert not again(task).enabled
    assert not again(at_once).enabled


def test_one_that_read_a_task_before_it_ran_once_and_for_all_does_not_run_it() -> None:
    make(one_off=True, last_run_at=None)
    PeriodicTask.objects.update(date_changed=timezone.now() - 2 * HOUR)
    first, second = new(), new()
    entry = second.schedule["hourly"]
    look(first)
    assert PeriodicTask.objects.get().last_run_at is None

    assert second.is_due(entry).is_due is False

    assert Call.objects.count() == 1


@pytest.mark.parametrize(
    "fields",
    [{"enabled": False}, {"start_time": timezone.now() + HOUR}, {"expires": timezone.now() - HOUR}],
    ids=["disabled", "not yet", "no more"],
)
def test_a_task_that_is_not_to_run_does_not(fields: dict[str, Any]) -> None:
    make(**fields)

    look(new())

    assert Call.objects.count() == 0


def test_a_task_that_is_deleted_meanwhile_is_not_called(caplog: pytest.LogCaptureFixture) -> None:
    task, scheduler = make(), new()
    entry = scheduler.schedule["hourly"]
    PeriodicTask.objects.filter(pk=task.pk).delete()

    with caplog.at_level(logging.WARNING):
        assert scheduler.is_due(entry) == (False, 5.0)

    assert (Call.objects.count(), caplog.text) == (0, "")


def bring_forward(scheduler: DatabaseScheduler) -> None:
    """As if the pause after a failure were over."""
    scheduler.populate_heap()


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


class CommitThen:
    """Stands for `transaction`: what is called after the commit fails."""

    def __init__(self, after: Callable[[], Any]) -> None:
        self.after, self.depth = after, 0

    def atomic(self) -> "CommitThen":
        return self

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *raised: object) -> None:
        self.depth -= 1
        if self.depth == 0 and raised[0] is None:
            self.after()
