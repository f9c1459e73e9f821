"""Operations are applied in the order of the calls, once, and each sees what those before it did."""

from typing import Any

import pytest

from handbell import serial_task
from handbell.models import Operation, outside_lanes
from handbell.serial import sql
from handbell.serial.drain import MAX_BATCH_OPERATIONS, LaneDrain
from handbell.testing import run_operations
from tasks_app.models import Counter
from tasks_app.tasks import increment_value, read_value
from tests.lanes_app.tables import Document, Shelf, Tag, lane, make, operation

pytestmark = pytest.mark.django_db


@serial_task(on=Document)
def append(document: Document, word: str) -> list[str]:
    document.words.append(word)
    return list(document.words)


@serial_task(on=Document)
def read(document: Document) -> list[str]:
    return list(document.words)


@serial_task(on=Tag, create=True)
def use(tag: Tag, times: int = 1) -> int:
    tag.uses += times
    return tag.uses


@serial_task(on=Tag)
def read_uses(tag: Tag) -> int:
    return tag.uses


@serial_task(key="lanes_app.document:{document_id}")
def put_on_shelf(document_id: int, name: str) -> list[str]:
    """A free function in the lane of a document: it reads and writes as it likes."""
    document = Document.objects.get(pk=document_id)
    document.shelf, _ = Shelf.objects.get_or_create(name=name)
    document.save()
    return list(document.words)


@serial_task(key="lanes_app.document:{document_id}")
def append_and_use(document_id: int) -> None:
    append.delay(document_id, "first")
    append.delay(document_id, "second")


class Killed(BaseException):
    """Stands for the end of the process."""


def test_operations_of_a_key_are_applied_in_the_order_of_the_calls() -> None:
    document = make(Document)
    results = [append.delay(document.pk, word) for word in "abc"]

    assert run_operations() == 3

    document.refresh_from_db()
    assert document.words == ["a", "b", "c"]
    assert [result.get() for result in results] == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_a_batch_is_written_at_once_and_many_batches_keep_the_order() -> None:
    calls = MAX_BATCH_OPERATIONS * 2 + 500
    results = increment_value.delay_many(("order", by) for by in range(calls))

    assert run_operations() == calls

    assert Counter.objects.get(pk="order").value == sum(range(calls))
    values = list(Operation.objects.order_by("id").values_list("result", flat=True))
    assert [int(value or "") for value in values] == [sum(range(by + 1)) for by in range(calls)]
    assert len(results) == calls


def test_different_tasks_models_and_free_functions_in_one_lane_keep_their_order() -> None:
    document = make(Document)
    mine = lane(Document.key_of(document.pk))
    name = next(name for name in map(str, range(1000)) if lane(Tag.key_of(name)) == mine)
    first = append.delay(document.pk, "a")
    tagged = use.delay(name)
    free = put_on_shelf.delay(document.pk, "top")
    again = use.delay(name, 5)
    last = append.delay(document.pk, "b")

    assert run_operations() == 5

    assert [result.get() for result in (first, tagged, free, again, last)] == [["a"], 1, ["a"], 6, ["a", "b"]]
    document.refresh_from_db()
    assert (document.words, document.shelf.name) == (["a", "b"], "top")
    assert Tag.objects.get(pk=name).uses == 6


def test_a_read_in_line_sees_every_write_before_it_and_none_after() -> None:
    document = make(Document)
    results = [task.delay(document.pk, *args) for task, *args in ((append, "a"), (read,), (append, "b"), (read,))]

    run_operations()

    assert results[1].get() == ["a"]
    assert results[3].get() == ["a", "b"]


def test_version_counts_the_operations_that_changed_the_row_and_no_others() -> None:
    document = make(Document)
    for task, *args in ((append, "a"), (read,), (append, "b"), (put_on_shelf, "top"), (read,)):
        task.delay(document.pk, *args)

    run_operations()

    assert Document.objects.get().version == 3


def test_create_makes_a_missing_row_once_even_if_nothing_in_it_changes() -> None:
    results = [use.delay("new", 0), read_uses.delay("new"), use.delay("new", 2)]

    run_operations()

    assert [result.get() for result in results] == [0, 0, 2]
    assert (Tag.objects.get().uses, Tag.objects.get().version) == (2, 2)


def test_a_missing_row_fails_the_operation_in_a_sentence() -> None:
    missing = read_value.delay("nowhere")

    run_operations()

    assert missing.state == "FAILURE"
    assert str(missing.result) == (
        "There is no Counter 'nowhere'. Create it first, or declare tasks_app.tasks.read_value with create=True."
    )


def test_a_row_that_is_missing_is_missing_in_the_same_batch_too() -> None:
    failing = use.delay("new", "x")  # type: ignore[arg-type]  # a number and a text cannot be added up
    missing = read_uses.delay("new")

    run_operations()

    assert (failing.state, missing.state) == ("FAILURE", "FAILURE")
    assert not Tag.objects.exists()


def test_operations_that_operations_enqueue_are_applied_after_them() -> None:
    document = make(Document)
    append_and_use.delay(document.pk)

    assert run_operations() == 3

    assert Document.objects.get().words == ["first", "second"]


def test_what_an_operation_did_and_that_it_is_done_are_kept_together_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process ends between the last effect and the commit; everything is done again, once."""
    document = make(Document)
    results = [append.delay(document.pk, "a"), put_on_shelf.delay(document.pk, "top"), append.delay(document.pk, "b")]
    mine = lane(Document.key_of(document.pk))

    def kill(*args: Any, **kwargs: Any) -> None:
        assert Document.objects.get().words == ["a", "b"]  # it was all written
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sql, "complete_operations", kill)
        LaneDrain(mine).run()

    assert (Document.objects.get().words, Shelf.objects.count()) == ([], 0)
    assert {result.state for result in results} == {"PENDING"}

    assert run_operations() == 3
    assert (Document.objects.get().words, Document.objects.get().version) == (["a", "b"], 3)
    assert [operation(result).attempts for result in results] == [1, 1, 1]


def test_nothing_waits_and_nothing_happens() -> None:
    assert run_operations() == 0


def test_rows_made_outside_are_seen_by_the_next_batch() -> None:
    use.delay("given")
    with outside_lanes():
        Tag.objects.create(name="given", uses=40)

    run_operations()

    assert Tag.objects.get().uses == 41
