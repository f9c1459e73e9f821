"""Beat notices every edit of a periodic task, the very first one too."""

from datetime import timedelta

import pytest
from celery import current_app
from django.utils import timezone
from django_celery_beat import schedulers
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

from handbell.celery.scheduler import DatabaseScheduler

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _the_tests_transaction_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "close_old_connections", lambda: None)


@pytest.fixture
def _nothing_ever_changed() -> None:
    PeriodicTask.objects.all().delete()
    PeriodicTasks.objects.all().delete()


def make(name: str) -> PeriodicTask:
    every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.HOURS)
    made: PeriodicTask = PeriodicTask.objects.create(name=name, task="a.task", interval=every)
    return made


def test_beat_uses_this_scheduler_and_looks_every_two_seconds() -> None:
    scheduler = DatabaseScheduler(app=current_app)

    assert current_app.conf.beat_scheduler == "handbell.celery.scheduler:DatabaseScheduler"
    assert scheduler.max_interval == 2


@pytest.mark.usefixtures("_nothing_ever_changed")
def test_the_first_change_ever_is_noticed() -> None:
    scheduler = DatabaseScheduler(app=current_app)
    assert not scheduler.schedule_changed()
    assert not scheduler.schedule_changed()

    make("first")
    assert scheduler.schedule_changed()
    assert not scheduler.schedule_changed()


@pytest.mark.usefixtures("_nothing_ever_changed")
@pytest.mark.parametrize("earlier", [[], ["earlier"]], ids=["the first ever", "a later one"])
def test_a_change_between_reading_and_comparing_is_noticed(earlier: list[str]) -> None:
    class EditedMeanwhile(DatabaseScheduler):
        def install_default_entries(self, data: object) -> None:
            make("meanwhile")
            super().install_default_entries(data)

    for name in earlier:
        make(name)
    scheduler = EditedMeanwhile(app=current_app)
    assert set(scheduler.schedule) == {*earlier, "meanwhile"}


@pytest.mark.usefixtures("_nothing_ever_changed")
def test_a_change_just_after_the_start_is_noticed() -> None:
    for name in ("first", "second"):
        scheduler = DatabaseScheduler(app=current_app)
        make(name)
        assert scheduler.schedule_changed()
        assert not scheduler.schedule_changed()


@pytest.mark.usefixtures("_nothing_ever_changed")
def test_the_librarys_scheduler_still_misses_both_so_ours_is_needed() -> None:
    never, before = (schedulers.DatabaseScheduler(app=current_app) for _ in range(2))
    assert not never.schedule_changed()
    make("first")

    assert not never.schedule_changed()
    assert not before.schedule_changed()


@pytest.mark.usefixtures("_nothing_ever_changed")
def test_an_edit_reaches_the_schedule() -> None:
    task = make("edited")
    scheduler = DatabaseScheduler(app=current_app)
    assert set(scheduler.schedule) == {"edited"}

    task.name, task.enabled = "renamed", True
    task.save()
    assert set(scheduler.schedule) == {"renamed"}
    task.enabled = False
    task.save()
    assert set(scheduler.schedule) == set()


@pytest.mark.usefixtures("_nothing_ever_changed")
def test_a_change_that_was_read_already_is_not_noticed_again() -> None:
    make("old")
    PeriodicTasks.objects.update(last_update=timezone.now() - timedelta(hours=1))

    assert not DatabaseScheduler(app=current_app).schedule_changed()
