"""A project with several databases: the ledger is in `default`, and a call is part of that one's transactions."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import transaction
from django_celery_results.models import TaskResult

from handbell.models import Call, Operation
from tasks_app.models import Entry
from tasks_app.tasks import increment_value
from tests import plain
from tests.conftest import COLUMNS
from tests.plain import SECONDS
from tests.system import System, nothing_is_left


@pytest.fixture(scope="module", params=COLUMNS)
def two_databases(request: pytest.FixtureRequest, make_system: Callable[[str], System]) -> Iterator[System]:
    system = make_system(request.param)
    system.environment["DJANGO_SETTINGS_MODULE"] = "tests.two_databases"
    migrated = system.manage("migrate", "--database=other")
    assert migrated.returncode == 0, migrated.stderr
    with system.worker("-Q", "high,cpu,serial", "-c", "1", "--include=tests.plain"):
        yield system
    nothing_is_left(system.folder)


def call_inside_a_transaction_of_the_other() -> list[Any]:
    with transaction.atomic(using="other"):
        Entry.objects.using("other").create(title="never")
        results = [plain.add.delay(1, 2), increment_value.delay("visits")]
        values = [result.get(timeout=SECONDS) for result in results]  # the messages have been sent already
        transaction.set_rollback(True, using="other")
    return [*values, Entry.objects.using("other").filter(title="never").count()]


def roll_back_only_the_ledgers() -> list[Any]:
    with transaction.atomic(), transaction.atomic(using="other"):
        Entry.objects.using("other").create(title="kept")
        results = [plain.add.delay(1, 2), increment_value.delay("visits")]
        transaction.set_rollback(True)
    unknown = not TaskResult.objects.filter(task_id__in=[result.id for result in results]).exists()
    kept = Entry.objects.using("other").filter(title="kept").count()
    return [unknown, Call.objects.count(), Operation.objects.exclude(status="succeeded").count(), kept]


def write_to_the_other_in_a_task() -> list[Any]:
    plain.write_entry.delay("other", "written").get(timeout=SECONDS)
    titles = Entry.objects.using("other").filter(title="written")
    return [titles.count(), Entry.objects.filter(title="written").count(), Call.objects.using("other").count()]


def test_a_call_is_no_part_of_the_other_databases_transaction(two_databases: System) -> None:
    assert two_databases.call(call_inside_a_transaction_of_the_other) == [3, 1, 0]


def test_what_the_ledgers_database_rolls_back_was_never_called(two_databases: System) -> None:
    assert two_databases.call(roll_back_only_the_ledgers) == [True, 0, 0, 1]


def test_a_task_uses_the_other_database(two_databases: System) -> None:
    assert two_databases.call(write_to_the_other_in_a_task) == [1, 0, 0]
