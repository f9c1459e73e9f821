"""delay_many: any number of calls, in their order, in one transaction, with ids that need no memory."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest
from django.db import transaction

from handbell.models import Operation
from handbell.serial import lanes
from handbell.serial.enqueue import MAX_INSERT_OPERATIONS, lane_count
from handbell.testing import run_operations
from tasks_app.models import Counter
from tasks_app.tasks import increment_value

pytestmark = pytest.mark.django_db
MANY = 12_000


def calls(count: int) -> Iterator[tuple[str, int]]:
    return ((f"key {number % 7}", number) for number in range(count))


def test_twelve_thousand_calls_from_a_generator_are_applied_in_order() -> None:
    results = increment_value.delay_many(calls(MANY))

    assert len(results) == MANY
    assert Operation.objects.count() == MANY
    assert run_operations() == MANY
    for key in range(7):
        assert Counter.objects.get(pk=f"key {key}").value == sum(range(key, MANY, 7))
    stored = Operation.objects.order_by("id").values_list("task_id", "arguments")
    assert [task_id for task_id, _ in stored] == list(results.ids)
    assert [arguments for _, arguments in stored[:2]] == ['[["key 0",0],{}]', '[["key 1",1],{}]']
    assert results[-1].get() == Counter.objects.get(pk=f"key {(MANY - 1) % 7}").value


def test_a_wrong_call_in_the_middle_leaves_nothing() -> None:
    def with_a_wrong_one() -> Iterator[tuple[Any, ...]]:
        yield from calls(MAX_INSERT_OPERATIONS + 10)
        yield ("key", object())
        yield from calls(MAX_INSERT_OPERATIONS)

    with pytest.raises(TypeError, match="must be JSON"):
        increment_value.delay_many(with_a_wrong_one())

    assert not Operation.objects.exists()


def test_a_call_that_does_not_fit_leaves_nothing() -> None:
    with pytest.raises(TypeError):
        increment_value.delay_many([("a",), ("a", 1, 2)])

    assert not Operation.objects.exists()


def test_a_caller_who_rolls_back_enqueues_nothing() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        increment_value.delay_many(calls(10))
        raise ZeroDivisionError

    assert not Operation.objects.exists()


def test_the_answer_is_a_sequence_of_results() -> None:
    results = increment_value.delay_many(calls(10))
    ids = list(results.ids)

    assert isinstance(results, Sequence)
    assert [result.id for result in results] == ids
    assert len(set(ids)) == 10
    assert results[3].id == ids[3]
    assert results[-1].id == ids[9]
    assert [result.id for result in results[2:8:3]] == [ids[2], ids[5]]
    assert [result.id for result in results[::-1]] == ids[::-1]
    assert all(len(given) == 36 for given in ids)
    for beyond in (10, -11):
        with pytest.raises(IndexError):
            results[beyond]


def test_a_result_can_be_had_again_by_its_id() -> None:
    results = increment_value.delay_many(calls(3))
    run_operations()

    assert [increment_value.AsyncResult(given).get() for given in results.ids] == [0, 1, 2]


def test_no_calls_are_no_operations() -> None:
    results = increment_value.delay_many([])

    assert (len(results), list(results)) == (0, [])
    assert not Operation.objects.exists()


def test_a_generator_is_taken_in_parts() -> None:
    """What has been taken from it has been written, but for one part."""
    most = 0

    def watched() -> Iterator[tuple[str, int]]:
        nonlocal most
        for number, call in enumerate(islice(calls(MANY), MAX_INSERT_OPERATIONS * 2)):
            if number % 1000 == 0:
                most = max(most, number - Operation.objects.count())
            yield call

    increment_value.delay_many(watched())

    assert most <= MAX_INSERT_OPERATIONS


def test_the_number_of_lanes_is_noticed_when_it_has_changed() -> None:
    increment_value.delay("before")
    before = lane_count.get()
    lanes.resize(before + 3)
    assert lane_count.get() == before  # this process does not know yet

    increment_value.delay_many(calls(20))
    assert lane_count.get() == before + 3
    assert run_operations() == 21
    lane_count.value = 0
