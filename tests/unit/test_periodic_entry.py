"""The migration that makes the nightly deletion's entry makes it once, and never overwrites an edit."""

from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from tasks_app.models import Entry
from tasks_app.tasks import delete_old_results

pytestmark = pytest.mark.django_db
migration = import_module("tasks_app.migrations.0002_examples")


@pytest.fixture(autouse=True)
def _no_entry_yet() -> None:
    for model in (PeriodicTask, CrontabSchedule, Entry):
        model.objects.all().delete()


def run() -> None:
    migration.add_examples(apps, connection.schema_editor())


def test_the_entry_runs_the_deletion_every_night() -> None:
    run()

    entry = PeriodicTask.objects.get()
    assert (entry.name, entry.task, entry.enabled) == ("Delete old results", delete_old_results.name, True)
    assert (entry.crontab.hour, entry.crontab.minute, str(entry.crontab.timezone)) == ("3", "15", "UTC")


def test_running_it_again_changes_nothing() -> None:
    run()
    other = CrontabSchedule.objects.create(hour="5", minute="0")
    PeriodicTask.objects.update(crontab=other, enabled=False, description="mine")
    run()

    entry = PeriodicTask.objects.get()
    assert (entry.crontab, entry.enabled, entry.description) == (other, False, "mine")


def test_going_back_removes_it_and_the_example_entries() -> None:
    Entry.objects.create(title="mine", body="of my own")
    run()
    assert Entry.objects.count() == 1 + len(migration.ENTRIES)
    migration.remove_examples(apps, connection.schema_editor())

    assert not PeriodicTask.objects.exists()
    assert [entry.title for entry in Entry.objects.all()] == ["mine"]
