"""Functions that use the database themselves, with a row or without: what they see, and what is kept of them."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from handbell import serial_task
from handbell.models import Operation
from handbell.testing import run_operations
from tasks_app.models import Counter
from tasks_app.tasks import increment_value
from tests.lanes_app.tables import Document, Draft, Shelf, Tag, lane, make

pytestmark = pytest.mark.django_db
happened: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_has_happened() -> Iterator[None]:
    happened.clear()
    yield
    happened.clear()


@serial_task(on=Document)
def append(document: Document, word: str) -> int:
    document.words.append(word)
    return len(document.words)


@serial_task(on=Document)
def stored(document: Document) -> list[str]:
    """The words as the database has them."""
    return list(Document.objects.values_list("words", flat=True).get(pk=document.pk))


@serial_task(on=Document)
def append_after_a_query(document: Document, words: list[str]) -> list[str]:
    words.append(str(Shelf.objects.count()))  # changes its own argument, and asks the database
    document.words += words
    return words


@serial_task(on=Document)
def append_and_save(document: Document, word: str) -> None:
    """Out of habit."""
    document.refresh_from_db()
    document.words.append(word)
    document.full_clean(exclude=["title", "words", "shelf", "owner"])
    document.save()
    document.save(update_fields=["words"])


@serial_task(on=Document)
def append_in_memory_and_save(document: Document, word: str) -> None:
    document.words.append(word)
    document.save()


@serial_task(on=Document)
def write_shelves(document: Document, *names: str) -> int:
    Shelf.objects.bulk_create([Shelf(name=name) for name in names])
    document.shelf = Shelf.objects.get(name=names[0])
    return Shelf.objects.count()


@serial_task(on=Document)
def enqueue(document: Document, *, fail: bool) -> None:
    document.words.append("enqueued")
    increment_value.delay("from within")
    if fail:
        raise ValueError


@serial_task(on=Document)
def say_after_commit(document: Document, what: str, *, query: bool = False, fail: bool = False) -> None:
    transaction.on_commit(lambda: happened.append(what))
    if query:
        Shelf.objects.count()
    if fail:
        raise ValueError


@serial_task(on=Document)
def catch_everything(document: Document, *, fail: bool) -> int:
    """Whatever a query raises, it goes on, or fails in its own way."""
    document.size += 1
    count = -1
    try:
        count = Shelf.objects.count()
    except BaseException:
        if fail:
            raise ValueError("not counted") from None
    document.words.append(str(count))
    return count


@serial_task(on=Document)
def hook_that_raises(document: Document) -> None:
    transaction.on_commit(lambda: 1 // 0)


@serial_task(on=Document)
def hook_that_exits(document: Document) -> None:
    transaction.on_commit(sys.exit)


@serial_task(on=Draft)
def append_to_draft(draft: Draft, word: str) -> list[str]:
    assert type(draft) is Draft
    draft.words.append(word)
    return draft.words


@serial_task(on=Document)
def move(document: Document, pk: int | None) -> None:
    document.words.append("moved")
    document.pk = pk


@serial_task(on=Document)
def remove(document: Document) -> None:
    document.delete()


@serial_task(on=Tag, create=True)
def use(tag: Tag) -> int:
    tag.uses += 1
    return tag.uses


@serial_task(on=Tag)
def remove_tag(tag: Tag) -> None:
    tag.delete()


@serial_task(on=Document)
def doubled(document: Document, size: int) -> int:
    document.size = size
    return document.doubled


@serial_task(on=Document)
def name_of_the_shelf(document: Document) -> str:
    assert document.shelf is not None
    return document.shelf.name


@serial_task(on=Document)
def put_on(document: Document, shelf_id: int) -> str:
    document.shelf = Shelf(pk=shelf_id, name="not the name it has")
    return document.shelf.name


@serial_task(key="lanes_app.document:{document_id}")
def shelve(document_id: int, name: str, *, fail: bool = False) -> None:
    with transaction.atomic():
        shelf = Shelf.objects.create(name=name)
        try:
            with transaction.atomic():
                Shelf.objects.create(name=name)
        except IntegrityError:
            happened.append("the inner transaction was rolled back")
    document = Document.objects.select_for_update().get(pk=document_id)
    document.shelf = shelf
    document.save(update_fields=["shelf"])
    if fail:
        raise ValueError


@serial_task(key="somewhere else")
def reach_into_another_lane(document_id: int) -> None:
    document = Document.objects.get(pk=document_id)
    document.save()


def test_a_query_sees_what_the_operations_before_it_did() -> None:
    document = make(Document)
    results = [append.delay(document.pk, "a"), stored.delay(document.pk), append.delay(document.pk, "b")]
    results += [stored.delay(document.pk)]

    run_operations()

    assert [result.get() for result in results] == [1, ["a"], 2, ["a", "b"]]


def test_a_function_that_turns_out_to_use_the_database_starts_afresh() -> None:
    """With the row and the arguments as they were, although its first attempt had changed both."""
    document = make(Document)
    results = [append_after_a_query.delay(document.pk, ["a"]), append_after_a_query.delay(document.pk, ["b"])]

    run_operations()

    assert [result.get() for result in results] == [["a", "0"], ["b", "0"]]
    assert Document.objects.get().words == ["a", "0", "b", "0"]


@pytest.mark.parametrize("task", [append_and_save, append_in_memory_and_save], ids=lambda task: task.__name__)
def test_save_out_of_habit_does_no_harm(task: Any) -> None:
    document = make(Document)
    for word in "ab":
        task.delay(document.pk, word)

    run_operations()

    document.refresh_from_db()
    assert (document.words, document.version) == (["a", "b"], 2)


def test_a_bulk_write_within_an_operation_is_no_fault() -> None:
    document = make(Document)
    results = [
        append.delay(document.pk, "a"),
        write_shelves.delay(document.pk, "x", "y"),
        append.delay(document.pk, "b"),
    ]

    run_operations()

    assert [result.get() for result in results] == [1, 2, 2]
    document.refresh_from_db()
    assert document.shelf is not None
    assert document.shelf.name == "x"


def test_what_a_failed_operation_enqueued_is_undone_with_it() -> None:
    document = make(Document)
    results = [enqueue.delay(document.pk, fail=fail) for fail in (True, False, True)]

    assert run_operations() == 4

    assert [result.state for result in results] == ["FAILURE", "SUCCESS", "FAILURE"]
    assert Counter.objects.get().value == 1
    assert Document.objects.get().words == ["enqueued"]
    assert Operation.objects.count() == 4


@pytest.mark.django_db(transaction=True)
def test_what_is_to_happen_after_the_commit_happens_once_and_only_if_the_operation_succeeded() -> None:
    document = make(Document)
    for number, (query, fail) in enumerate(
        [(False, False), (False, True), (True, False), (True, True), (False, False)]
    ):
        say_after_commit.delay(document.pk, str(number), query=query, fail=fail)

    run_operations()

    assert happened == ["0", "2", "4"]


@pytest.mark.parametrize("fail", [False, True])
def test_a_function_that_catches_everything_still_gets_what_it_asks_the_database_for(fail: bool) -> None:
    document = make(Document)
    results = [catch_everything.delay(document.pk, fail=fail), append.delay(document.pk, "a")]

    run_operations()

    assert [result.get() for result in results] == [0, 2]
    document.refresh_from_db()
    assert (document.size, document.words) == (1, ["0", "a"])


@pytest.mark.django_db(transaction=True)
def test_a_hook_that_raises_does_not_keep_the_others_from_running(caplog: pytest.LogCaptureFixture) -> None:
    document = make(Document)
    results = [
        say_after_commit.delay(document.pk, "0"),
        hook_that_raises.delay(document.pk),
        hook_that_exits.delay(document.pk),
        say_after_commit.delay(document.pk, "1"),
    ]

    run_operations()

    assert happened == ["0", "1"]
    assert [result.state for result in results] == ["SUCCESS"] * 4
    assert "hook_that_raises: a function that was to run after the commit has failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_proxy_shares_the_lane_of_its_rows() -> None:
    document = make(Document)
    results = [
        append.delay(document.pk, "a"),
        append_to_draft.delay(document.pk, "b"),
        append.delay(document.pk, "c"),
        append_to_draft.delay(document.pk, "d"),
    ]
    assert len(set(Operation.objects.values_list("key", flat=True))) == 1

    run_operations()

    assert [result.state for result in results] == ["SUCCESS"] * 4
    document.refresh_from_db()
    assert (document.words, document.version) == (["a", "b", "c", "d"], 4)


@pytest.mark.parametrize("pk", [None, 4711])
def test_a_row_keeps_its_primary_key(pk: int | None) -> None:
    document = make(Document)
    failed, after = move.delay(document.pk, pk), append.delay(document.pk, "after")

    run_operations()

    assert "The primary key of a Document cannot be changed by its own task." in str(failed.result)
    assert after.get() == 1
    assert list(Document.objects.values_list("pk", "words")) == [(document.pk, ["after"])]


def test_an_operation_may_delete_its_row() -> None:
    document = make(Document)
    results = [append.delay(document.pk, "a"), remove.delay(document.pk), append.delay(document.pk, "b")]

    run_operations()

    assert [result.state for result in results] == ["SUCCESS", "SUCCESS", "FAILURE"]
    assert type(results[2].result).__name__ == "RowMissing"
    assert not Document.objects.exists()


def test_a_row_may_be_deleted_and_made_again_in_one_batch() -> None:
    results = [use.delay("x"), use.delay("x"), remove_tag.delay("x"), use.delay("x")]

    run_operations()

    assert [result.get() for result in results] == [1, 2, None, 1]
    assert list(Tag.objects.values_list("uses", "version")) == [(1, 1)]


def test_what_a_function_keeps_on_the_row_is_not_there_for_the_next() -> None:
    """Two operations are the same to each other in one batch as in two: cached properties and relations are not."""
    shelf = make(Shelf, name="its name")
    document = make(Document)
    calls: list[Any] = [(doubled, 1), (doubled, 2), (put_on, shelf.pk), (name_of_the_shelf,)]
    results = [task.delay(document.pk, *args) for task, *args in calls]

    run_operations()

    assert [result.get() for result in results] == [2, 4, "not the name it has", "its name"]


def test_looking_at_a_row_does_not_change_it() -> None:
    document = make(Document, size=3)
    doubled.delay(document.pk, 3)

    run_operations()

    assert Document.objects.get().version == 0


def test_fields_that_note_the_time_of_a_change_note_it() -> None:
    document = make(Document)
    append.delay(document.pk, "a")

    run_operations()

    assert Document.objects.get().changed_at > document.changed_at


def test_a_free_function_has_transactions_of_its_own_within_the_operation() -> None:
    document = make(Document)
    before, free, after = append.delay(document.pk, "a"), shelve.delay(document.pk, "x"), append.delay(document.pk, "b")

    run_operations()

    assert [before.get(), free.get(), after.get()] == [1, None, 2]
    assert happened == ["the inner transaction was rolled back"]
    document.refresh_from_db()
    assert (document.words, document.version, document.shelf and document.shelf.name) == (["a", "b"], 3, "x")


def test_a_free_function_that_fails_takes_everything_with_it() -> None:
    document = make(Document)
    failed, after = shelve.delay(document.pk, "x", fail=True), append.delay(document.pk, "b")

    run_operations()

    assert (failed.state, after.get()) == ("FAILURE", 1)
    assert not Shelf.objects.exists()
    document.refresh_from_db()
    assert (document.shelf, document.version) == (None, 1)


def test_a_row_of_another_lane_is_out_of_reach() -> None:
    document = next(
        made
        for made in (make(Document) for _ in range(1000))
        if lane(Document.key_of(made.pk)) != lane("somewhere else")
    )
    failed = reach_into_another_lane.delay(document.pk)

    run_operations()

    assert type(failed.result).__name__ == "OutsideLane"
    assert f"only lane {lane(Document.key_of(document.pk))} changes this row" in str(failed.result)
