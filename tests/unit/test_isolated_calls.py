"""Calling an isolated task: one row and one doorbell, after the commit, and never a wait."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import states as celery_states
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from django.db import transaction
from django.utils import timezone

from handbell import isolated_task
from handbell.common import broker
from handbell.common.codec import encode_error
from handbell.errors import LaunchRefused, NotJson, ProcessDied
from handbell.isolated import enqueue, outcomes
from handbell.isolated import launches as steering
from handbell.isolated.doorbell import SUPERVISE, launches_doorbell
from handbell.models import Doorbell, Launch
from tasks_app.models import Entry
from tests import launches

pytestmark = pytest.mark.django_db
Sent = Callable[[], list[Any]]


@isolated_task(timeout=5, memory_mb=64, grace=1.5)
def limited(text: str, times: int = 1) -> str:
    return text * times


wrongly: Any = limited  # mypy would refuse these calls, too


# --- The row and the doorbell -----------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_call_is_one_row_and_one_doorbell(sent: Sent) -> None:
    row = limited.launch("a", times=2)

    stored = Launch.objects.get()
    assert (stored.pk, stored.status, json.loads(stored.arguments)) == (row.pk, "queued", [["a"], {"times": 2}])
    assert (stored.timeout, stored.memory_mb, stored.grace) == (5, 64, 1.5)
    assert [(message.queue, message.task) for message in sent()] == [("isolated", SUPERVISE)]


@pytest.mark.django_db(transaction=True)
def test_a_thousand_calls_ring_once_until_somebody_answers(sent: Sent) -> None:
    launches.nothing.launch_many(range(1000))
    launches.nothing.delay()
    assert len(sent()) == 1

    launches_doorbell.answer()
    launches.nothing.delay()
    launches.nothing.delay()
    assert len(sent()) == 1


@pytest.mark.django_db(transaction=True)
def test_within_a_transaction_the_doorbell_rings_after_the_commit(sent: Sent) -> None:
    with transaction.atomic():
        result = launches.nothing.delay(1)
        assert str(result.state) == "PENDING"
        assert sent() == []
    assert len(sent()) == 1


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_is_rolled_back_leaves_nothing(sent: Sent) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        launches.nothing.launch_many(range(3))
        launches.nothing.launch()
        1 / 0  # noqa: B018
    assert not Launch.objects.exists()
    assert not Doorbell.objects.filter(rung=True).exists()
    assert sent() == []


def test_without_a_broker_a_call_is_quick_and_the_launch_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        tried.append(args)
        raise ConnectionRefusedError

    monkeypatch.setattr(broker, "_publish", refuse)
    monkeypatch.setattr(broker._Backoff, "until", 0.0)
    launches_doorbell.send()
    launches_doorbell.send()

    assert len(tried) == 2  # once more with a new connection, and not again for a moment


# --- Arguments --------------------------------------------------------------------------------------------------------


def test_an_instance_stands_for_its_primary_key() -> None:
    entry = Entry.objects.create(title="x", body="y")

    assert json.loads(launches.nothing.launch(entry).arguments) == [[entry.pk], {}]


def test_a_queryset_feeds_launches_however_many() -> None:
    Entry.objects.all().delete()
    Entry.objects.bulk_create(Entry(title=str(number), body="") for number in range(2500))

    many = launches.nothing.launch_many(Entry.objects.order_by("pk").iterator())

    assert len(many) == 2500
    assert Launch.objects.count() == 2500
    keys = list(Entry.objects.order_by("pk").values_list("pk", flat=True))
    rows = Launch.objects.in_bulk(list(many.ids), field_name="task_id")
    assert [json.loads(rows[task_id].arguments)[0][0] for task_id in many.ids] == keys
    assert str(many[2499].state) == "PENDING"
    assert [result.id for result in many[1:3]] == list(many.ids)[1:3]


def test_a_feed_is_taken_in_parts_and_never_held() -> None:
    stored_when_asked_for: list[int] = []

    def feed() -> Iterator[int]:
        for number in range(3 * enqueue.MAX_INSERT_LAUNCHES):
            if number % enqueue.MAX_INSERT_LAUNCHES == 0:
                stored_when_asked_for.append(Launch.objects.count())
            yield number

    launches.nothing.launch_many(feed())

    assert stored_when_asked_for == [0, enqueue.MAX_INSERT_LAUNCHES, 2 * enqueue.MAX_INSERT_LAUNCHES]


def test_tuples_are_arguments() -> None:
    limited.launch_many([("a", 2), ["b"]])

    assert [json.loads(row.arguments)[0] for row in Launch.objects.order_by("id")] == [["a", 2], ["b"]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: wrongly.launch(), TypeError, "missing 1 required positional argument"),
        (lambda: wrongly.delay("a", 1, 2), TypeError, "takes from 1 to 2 positional"),
        (lambda: wrongly.launch(object()), NotJson, "must be JSON"),
        (lambda: wrongly.launch(float("nan")), NotJson, "must be JSON"),
        (lambda: wrongly.apply_async(("a",), countdown=3), TypeError, "does not take countdown"),
        (lambda: wrongly.apply_async(("a",), task_id="x" * 256), ValueError, "has 256 characters; the limit is 255"),
    ],
)
def test_a_wrong_call_is_refused_at_once(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
    assert not Launch.objects.exists()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"timeout": 0}, "timeout= must be from 0.001 to 1,000,000,000, not 0"),
        ({"timeout": 1, "grace": -1}, "grace= must be from 0 to 1,000,000,000, not -1"),
        ({"timeout": 1, "memory_mb": 3}, "memory_mb= must be from 16 to 16,777,216, not 3"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_where_it_is_declared(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        isolated_task(**limits)(lambda: None)  # type: ignore[no-untyped-call]


# --- As a Celery task -------------------------------------------------------------------------------------------------


def test_the_same_id_launches_once() -> None:
    first = limited.apply_async(("a",), task_id="the-same")
    second = limited.apply_async(("b",), task_id="the-same")

    assert first.id == second.id == "the-same"
    assert json.loads(Launch.objects.get().arguments)[0] == ["a"]


def test_celerys_time_limit_takes_the_place_of_the_timeout() -> None:
    limited.apply_async(("a",), time_limit=0.5)

    assert Launch.objects.get().timeout == 0.5


def test_what_beat_passes_along_does_no_harm() -> None:
    limited.apply_async(("a",), producer=object(), priority=3, queue="isolated", periodic_task_name="each night")

    assert Launch.objects.count() == 1


def test_a_message_with_its_name_becomes_a_launch_and_only_one_if_it_comes_twice() -> None:
    for _ in range(2):
        task: Any = limited
        task.push_request(id="from-far-away", called_directly=False)
        try:
            assert limited("a") is None
        finally:
            task.pop_request()

    assert Launch.objects.get().task_id == "from-far-away"


def test_called_directly_it_is_a_function() -> None:
    assert limited("a", 3) == "aaa"
    assert not Launch.objects.exists()


STATES = [
    ("queued", None, "PENDING", None),
    ("running", None, celery_states.STARTED, None),
    ("succeeded", "[1]", celery_states.SUCCESS, None),
    ("failed", encode_error(ValueError("no")), celery_states.FAILURE, ValueError),
    ("out_of_memory", encode_error(MemoryError("much")), celery_states.FAILURE, MemoryError),
    ("lost", encode_error(ProcessDied("gone")), celery_states.FAILURE, ProcessDied),
    ("cancelled", outcomes.CANCELLED_ERROR, celery_states.REVOKED, TaskRevokedError),
]


@pytest.mark.parametrize(("status", "result", "state", "error"), STATES, ids=lambda value: str(value)[:12])
def test_async_result_works_for_launches(status: str, result: str, state: str, error: type[Exception] | None) -> None:
    launched = limited.delay("a")
    Launch.objects.update(status=status, result=result, finished_at=timezone.now() if result else None)

    found: AsyncResult[Any] = AsyncResult(launched.id)
    assert (found.state, found.name, found.queue) == (state, limited.name, "isolated")
    if error:
        with pytest.raises(error):
            found.get(timeout=1)
    elif result:
        assert found.get(timeout=1) == [1]


def test_an_id_that_nobody_knows_is_pending() -> None:
    assert AsyncResult(str(uuid.uuid4())).state == celery_states.PENDING


# --- Cancelling -------------------------------------------------------------------------------------------------------


def test_one_that_waits_is_cancelled_at_once_and_one_that_is_over_is_not() -> None:
    waiting = limited.launch("a")

    assert steering.cancel(waiting.pk) == "cancelled"
    waiting.refresh_from_db()
    assert (waiting.status, waiting.reason) == ("cancelled", "cancelled before it began")
    with pytest.raises(LaunchRefused, match=r"is not cancelled: it is over \(cancelled\)"):
        steering.cancel(waiting.pk)
    with pytest.raises(LaunchRefused, match="There is no launch 0"):
        steering.cancel(0)
