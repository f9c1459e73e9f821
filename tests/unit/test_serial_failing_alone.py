"""An operation that fails leaves nothing behind, and those beside it are kept, whatever the failure is."""

import sys
from typing import Any

import pytest
from celery.result import AsyncResult
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from handbell import serial_task
from handbell.models import Lane, Operation
from handbell.serial import sql
from handbell.testing import run_operations
from tasks_app.models import Counter, PlainCounter
from tasks_app.tasks import increment_value
from tests.lanes_app.tables import Document, Shelf, Tag, make, operation, state


class Broken(Exception):
    """What goes wrong."""


@serial_task(on=Document)
def append(document: Document, word: str) -> list[str]:
    document.words.append(word)
    return list(document.words)


@serial_task(on=Document)
def spoil(document: Document, message: str) -> None:
    """Changes a bit of everything, and then fails."""
    document.title = "half"
    document.size += 1
    document.words.append("half")
    document.words[0]["deep"].append("half")
    document.shelf = Shelf(pk=77)
    document.extra = "half"  # type: ignore[attr-defined]
    raise Broken(message)


@serial_task(on=Document)
def look(document: Document) -> list[Any]:
    return [document.title, document.size, document.words, document.shelf and document.shelf.pk, document.version]


def the_value_named(name: str) -> Any:
    return {
        "none": None,
        "text": "many",
        "huge": 2**70,
        "set": {1},
        "expression": F("size") + 1,
        "too long": "x" * 21,
        "out of range": 40_000,
    }[name]


@serial_task(on=Document)
def assign(document: Document, field: str, name: str) -> None:
    setattr(document, field, the_value_named(name))


@serial_task(on=Tag, create=True)
def create_wrongly(tag: Tag) -> None:
    tag.uses = None  # type: ignore[assignment]


@serial_task(on=Document)
def put_on_missing_shelf(document: Document, shelf_id: int) -> None:
    document.shelf_id = shelf_id


@serial_task
def make_shelves_wrongly() -> None:
    Shelf.objects.create(name="one")
    Shelf.objects.create(name="one")


@serial_task(on=Document)
def leave(document: Document) -> None:
    document.title = "half"
    sys.exit(3)


@serial_task(on=Document)
def return_a_set(document: Document) -> set[int]:
    document.title = "half"
    return {1}


@serial_task(on=Document, on_failure="block")
def fail_and_block(document: Document) -> None:
    document.shelf_id = 999


def around(document: Document, *calls: Any) -> list[Any]:
    """The states of `calls` (task, arguments…), with a good operation before and after each of them."""
    before = append.delay(document.pk, "before")
    results = [task.delay(document.pk, *args) for task, *args in calls]
    after = append.delay(document.pk, "after")
    other = increment_value.delay("another row")
    run_operations()
    assert (before.state, after.state, other.state) == ("SUCCESS", "SUCCESS", "SUCCESS")
    assert after.get() == ["before", "after"]
    document.refresh_from_db()
    assert document.words == ["before", "after"]
    assert document.version == 2
    assert Counter.objects.get().value == 1
    return results


@pytest.mark.django_db
def test_a_failed_operations_row_is_as_it_was_down_to_values_within_values() -> None:
    shelf = make(Shelf, name="top")
    document = make(Document, title="whole", size=5, words=[{"deep": []}], shelf=shelf)
    failed, seen = spoil.delay(document.pk, "half"), look.delay(document.pk)

    run_operations()

    assert failed.state == "FAILURE"
    assert seen.get() == ["whole", 5, [{"deep": []}], shelf.pk, 0]
    document.refresh_from_db()
    assert (document.title, document.size, document.words, document.version) == ("whole", 5, [{"deep": []}], 0)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("task", "args", "error"),
    [(leave, (), "SystemExit"), (return_a_set, (), "NotJson"), (assign, ("size", "unheard of"), "KeyError")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_whatever_an_operation_raises_is_its_own(task: Any, args: tuple[str, ...], error: str) -> None:
    document = make(Document)

    (failed,) = around(document, (task, *args))

    assert failed.state == "FAILURE"
    assert type(failed.result).__name__ == error


REFUSED = [
    ("title", "none", "IntegrityError"),
    ("size", "text", "ValueError"),
    ("size", "huge", "OverflowError|DataError"),
    ("words", "set", "TypeError"),
    ("size", "expression", "ProgrammingError|InterfaceError"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("field", "value", "error"), REFUSED)
def test_a_row_that_cannot_be_written_fails_its_operation_alone(field: str, value: str, error: str) -> None:
    document = make(Document)

    (failed,) = around(document, (assign, field, value))

    assert failed.state == "FAILURE"
    assert type(failed.result).__name__ in error.split("|")


@pytest.mark.django_db
@pytest.mark.parametrize(("field", "value"), [("size", "out of range"), ("title", "too long")])
def test_a_value_that_has_no_room_in_its_column_fails_alone_where_columns_have_sizes(field: str, value: str) -> None:
    document = make(Document)

    (result,) = around(document, (assign, field, value)) if connection.vendor == "postgresql" else [None]

    assert result is None or type(result.result).__name__ == "DataError"  # SQLite has no sizes


@pytest.mark.django_db
def test_several_faulty_rows_among_many_good_ones_fail_and_no_others() -> None:
    documents = [make(Document) for _ in range(30)]
    results: list[AsyncResult[Any]] = []
    for number, document in enumerate(documents):
        results.append(append.delay(document.pk, "a"))
        results.append(
            assign.delay(document.pk, "title", "none") if number % 7 == 0 else append.delay(document.pk, "b")
        )

    run_operations()

    assert [n // 2 for n, result in enumerate(results) if result.state != "SUCCESS"] == [0, 7, 14, 21, 28]
    assert all(document.words[0] == "a" for document in Document.objects.all())


@pytest.mark.django_db
def test_a_new_row_that_cannot_be_written_fails_its_operation_alone() -> None:
    document = make(Document)
    failed = create_wrongly.delay("new")

    around(document)

    assert type(failed.result).__name__ == "IntegrityError"
    assert not Tag.objects.exists()


@pytest.mark.django_db
def test_a_free_function_fails_alone_and_what_it_wrote_is_undone() -> None:
    document = make(Document)
    failed = make_shelves_wrongly.delay()

    around(document)

    assert type(failed.result).__name__ == "IntegrityError"
    assert not Shelf.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_only_the_commit_finds_out_fails_the_operation_alone() -> None:
    """A foreign key is checked when the transaction commits, on both databases."""
    document = make(Document)

    (failed,) = around(document, (put_on_missing_shelf, 999))

    assert failed.state == "FAILURE"
    assert type(failed.result).__name__ == "IntegrityError"
    assert "FOREIGN KEY" in str(failed.result).upper()
    assert operation(failed).attempts == 1


@pytest.mark.django_db(transaction=True)
def test_what_only_the_commit_finds_out_can_block_the_lane() -> None:
    document = make(Document)
    failed, behind = fail_and_block.delay(document.pk), append.delay(document.pk, "behind")

    run_operations()

    assert (failed.state, behind.state) == ("FAILURE", "PENDING")
    assert Lane.objects.get(blocked_by__isnull=False).blocked_by == operation(failed).pk


@pytest.mark.django_db
def test_an_error_may_quote_anything() -> None:
    document = make(Document, words=[{"deep": []}])
    failed = [spoil.delay(document.pk, message) for message in ("a\0b", "half of \ud83d", "x" * 100_000)]

    run_operations()

    assert [result.state for result in failed] == ["FAILURE"] * 3
    assert getattr(failed[0].result, "args", None) == ("a\0b",)
    assert "a\\x00b" in str(failed[0].traceback)
    assert "half of \\ud83d" in str(failed[1].traceback)
    assert len(operation(failed[2]).traceback or "") <= 20_000


@pytest.mark.django_db
def test_a_batch_that_nobody_can_write_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the machinery itself is not put down to an operation: it is raised, and nothing is kept."""
    result = increment_value.delay("kept")
    calls = []

    def refuse(*args: Any) -> None:
        calls.append(args)
        assert len(calls) < 10
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(sql, "pending_operations", refuse)
        run_operations()

    assert state(result) == "PENDING"
    run_operations()
    assert result.get() == 1


# --- What savepoints cost -------------------------------------------------------------------------------------------


@serial_task(key="{name}")
def make_counter(name: str, *, fail: bool = False) -> str:
    PlainCounter.objects.create(name=name)
    if fail:
        raise Broken("after the write")
    return name


@pytest.mark.django_db(transaction=True)
def test_functions_that_succeed_need_no_savepoint() -> None:
    for number in range(5):
        make_counter.delay(str(number))
    with CaptureQueriesContext(connection) as queries:
        run_operations()

    assert PlainCounter.objects.count() == 5
    assert not [query["sql"] for query in queries if "SAVEPOINT" in query["sql"]]


@pytest.mark.django_db(transaction=True)
def test_among_many_that_used_the_database_each_failure_stands_alone() -> None:
    names, bad = {str(number) for number in range(200)}, {"0", "7", "8", "150", "199"}
    for name in sorted(names):
        make_counter.delay(name, fail=name in bad)
    run_operations()

    assert names - set(PlainCounter.objects.values_list("name", flat=True)) == bad
    assert Operation.objects.filter(status="failed").count() == 5
    assert set(Operation.objects.values_list("attempts", flat=True)) == {1}


@pytest.mark.django_db(transaction=True)
def test_the_worker_logs_what_failed_and_where(caplog: pytest.LogCaptureFixture) -> None:
    document = make(Document, words=[{"deep": []}])
    result = spoil.delay(document.pk, "the shelf is full")

    run_operations()

    (record,) = [it for it in caplog.records if it.name == "handbell.serial.sql"]
    assert record.levelname == "ERROR"
    first_line, *trace = record.getMessage().splitlines()
    assert first_line == f"Operation {operation(result).pk} of {spoil.name} ended as failed."
    assert trace[-1].endswith("Broken: the shelf is full")
