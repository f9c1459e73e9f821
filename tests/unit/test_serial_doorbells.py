"""Doorbells: one message however many calls, after the commit and only then; the sweeper rings where one was lost."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.db import OperationalError, transaction
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError

from handbell import sweeper
from handbell.common import broker
from handbell.common.doorbell import MAX_RING_ATTEMPTS, DoorbellMessage
from handbell.models import Doorbell, Lane, Operation
from handbell.serial import doorbell, lanes, sql, sweep
from handbell.serial import drain as drain_module
from handbell.serial.doorbell import doorbell_name
from handbell.serial.drain import drain as drain_task
from tasks_app.models import Counter
from tasks_app.tasks import increment_value
from tests.lanes_app.tables import lane, state
from tests.unit.conftest import Message

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[Message]]
COUNTER = "doorbells"


@pytest.fixture
def mine() -> int:
    return lane(Counter.key_of(COUNTER))


def rung(sent: Sent) -> list[int]:
    """The lanes whose doorbells were sent since the last look."""
    messages = sent()
    assert {(message.queue, message.task) for message in messages} <= {("serial", doorbell.DRAIN)}
    return [message.args[0] for message in messages]


def ago(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


# --- Ringing --------------------------------------------------------------------------------------------------------


def test_a_call_rings_its_lane(sent: Sent, mine: int) -> None:
    increment_value.delay(COUNTER)

    assert rung(sent) == [mine]


def test_a_call_in_a_transaction_rings_after_the_commit(sent: Sent, mine: int) -> None:
    with transaction.atomic():
        increment_value.delay(COUNTER)
        assert rung(sent) == []

    assert rung(sent) == [mine]


def test_a_call_that_is_rolled_back_leaves_neither_operation_nor_doorbell(sent: Sent) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        increment_value.delay(COUNTER)
        raise ZeroDivisionError

    assert rung(sent) == []
    assert not Operation.objects.exists()
    assert not Doorbell.objects.filter(rung=True).exists()


def test_many_calls_ring_once_until_the_lane_answers(sent: Sent, mine: int) -> None:
    for _ in range(5):
        increment_value.delay(COUNTER)
    assert rung(sent) == [mine]

    drain_task(mine)
    assert Counter.objects.get().value == 5
    assert rung(sent) == []

    increment_value.delay(COUNTER)
    assert rung(sent) == [mine]


def test_delay_many_rings_each_lane_once(sent: Sent) -> None:
    increment_value.delay_many((f"{COUNTER} {number}",) for number in range(500))

    assert sorted(rung(sent)) == sorted(Operation.objects.values_list("lane", flat=True).distinct().order_by())


def test_a_call_for_later_rings_when_it_is_due(sent: Sent, mine: int) -> None:
    increment_value.apply_async((COUNTER,), countdown=60)
    assert rung(sent) == []

    Operation.objects.update(not_before=timezone.now())
    sweep.sweep_lanes()
    assert rung(sent) == [mine]


# --- Answering ------------------------------------------------------------------------------------------------------


def test_a_drain_makes_way_after_its_slice_and_rings_for_what_is_left(
    sent: Sent, mine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    increment_value.delay(COUNTER)
    rung(sent)
    with monkeypatch.context() as patch:
        patch.setattr(drain_module, "SLICE_SECONDS", 0)
        drain_task(mine)

    assert rung(sent) == [mine]
    drain_task(mine)
    assert rung(sent) == []
    assert Counter.objects.get().value == 1


def test_an_operation_that_comes_while_the_lane_is_drained_is_not_left_behind(
    sent: Sent, mine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the last look at what waits and before the commit: its doorbell is its own."""
    complete = sql.complete_operations

    def complete_while_another_comes(*args: Any, **kwargs: Any) -> None:
        complete(*args, **kwargs)
        if Operation.objects.count() == 1:
            increment_value.delay(COUNTER)

    monkeypatch.setattr(sql, "complete_operations", complete_while_another_comes)
    increment_value.delay(COUNTER)
    drain_task(mine)

    assert Counter.objects.get().value == 2


def test_a_doorbell_too_many_changes_nothing(sent: Sent, mine: int) -> None:
    increment_value.delay(COUNTER)
    for _ in range(100):
        drain_task(mine)

    assert Counter.objects.get().value == 1
    assert Doorbell.objects.get(pk=doorbell_name(mine)).crash_count == 0


def test_the_doorbell_of_a_lane_that_is_gone_is_heard_by_nobody(sent: Sent) -> None:
    drain_task(4711)

    assert rung(sent) == []


def test_a_drain_whose_connection_breaks_gives_up_and_keeps_nothing(
    sent: Sent, mine: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    increment_value.delay(COUNTER)
    with monkeypatch.context() as patch:
        patch.setattr(sql, "complete_operations", raising(OperationalError("the server closed the connection")))
        drain_task(mine)

    assert "the drain broke off in the middle of a batch" in caplog.text
    assert not Counter.objects.exists()
    drain_task(mine)
    assert Counter.objects.get().value == 1


# --- The broker does not answer -------------------------------------------------------------------------------------


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def test_a_call_does_not_need_the_broker_and_does_not_wait_for_it_twice(
    sent: Sent, mine: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(current_app, "send_task", raising(BrokerError("refused")))
        result = increment_value.delay(COUNTER)
        increment_value.delay_many((f"{COUNTER} {number}",) for number in range(100))

    assert caplog.text.count("It is sent once the broker answers.") == 1
    assert state(result) == "PENDING"

    broker._Backoff.until = 0.0
    Doorbell.objects.filter(rung=True).update(rung_at=ago(60))
    sweep.sweep_lanes()
    assert mine in rung(sent)


@pytest.mark.parametrize("in_a_transaction", [True, False])
def test_whatever_goes_wrong_with_a_doorbell_the_call_has_succeeded(
    in_a_transaction: bool, mine: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The database may go away just between the commit and the doorbell."""
    monkeypatch.setattr(DoorbellMessage, "ring", raising(OperationalError("the server closed the connection")))
    with transaction.atomic() if in_a_transaction else nullcontext():
        result = increment_value.delay(COUNTER)

    assert state(result) == "PENDING"
    assert "the server closed the connection" in caplog.text


# --- The sweeper ----------------------------------------------------------------------------------------------------


def waiting_unrung(sent: Sent) -> None:
    """Whoever enqueued this died between its commit and the doorbell."""
    increment_value.delay(COUNTER)
    Doorbell.objects.update(rung=False)
    sent()


def test_the_sweeper_rings_for_whoever_died_before_it_could(sent: Sent, mine: int) -> None:
    waiting_unrung(sent)

    sweep.sweep_lanes()
    assert rung(sent) == [mine]
    sweep.sweep_lanes()
    assert rung(sent) == []


def test_the_sweeper_rings_for_a_drain_that_died(sent: Sent, mine: int) -> None:
    """It had put the flag down."""
    increment_value.delay(COUNTER)
    sent()
    doorbell.answer(mine)

    sweep.sweep_lanes()
    assert rung(sent) == [mine]


@pytest.mark.parametrize(
    ("is_empty", "patience"), [(False, (2, 4, 8, 16, 32, 64, 64)), (True, (2, 2, 2, 2, 2, 2, 2))], ids=["busy", "empty"]
)
def test_the_sweeper_rings_again_after_two_seconds_and_in_a_busy_queue_each_time_later(
    sent: Sent, mine: int, monkeypatch: pytest.MonkeyPatch, is_empty: bool, patience: tuple[int, ...]
) -> None:
    monkeypatch.setattr(broker, "is_queue_empty", lambda queue: is_empty)
    increment_value.delay(COUNTER)
    sent()
    for seconds in patience:
        Doorbell.objects.filter(pk=doorbell_name(mine)).update(rung_at=ago(seconds - 0.5))
        sweep.sweep_lanes()
        assert rung(sent) == []
        Doorbell.objects.filter(pk=doorbell_name(mine)).update(rung_at=ago(seconds + 0.5))
        sweep.sweep_lanes()
        assert rung(sent) == [mine]


def test_a_broker_that_is_away_is_no_reason_to_wait_longer(
    sent: Sent, mine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    increment_value.delay(COUNTER)
    monkeypatch.setattr(DoorbellMessage, "send", lambda self: False)
    for _ in range(3):
        Doorbell.objects.filter(pk=doorbell_name(mine)).update(rung_at=ago(2.5))
        sweep.sweep_lanes()
        assert Doorbell.objects.get(pk=doorbell_name(mine)).ring_attempts == 0


def test_the_sweeper_goes_on_ringing_however_long_nobody_answers_but_fills_no_queue(
    sent: Sent, mine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    increment_value.delay(COUNTER)
    sent()
    for is_empty, rings in ((True, [mine]), (False, []), (True, [mine])):
        monkeypatch.setattr(broker, "is_queue_empty", lambda queue, is_empty=is_empty: is_empty)
        Doorbell.objects.filter(pk=doorbell_name(mine)).update(ring_attempts=MAX_RING_ATTEMPTS, rung_at=ago(64.5))
        sweep.sweep_lanes()
        assert rung(sent) == rings
    assert Doorbell.objects.get(pk=doorbell_name(mine)).ring_attempts == MAX_RING_ATTEMPTS


@pytest.mark.parametrize(
    ("given", "rings"),
    [
        (lambda: Lane.objects.update(paused=True), False),
        (lambda: Lane.objects.update(blocked_by=1), False),
        (lambda: Lane.objects.update(drained_at=timezone.now()), False),
        (lambda: Lane.objects.update(drained_at=ago(2)), True),
        (lambda: Operation.objects.update(status="running"), False),
        (lambda: Operation.objects.update(status="succeeded"), False),
        (lambda: Operation.objects.update(not_before=ago(-60)), False),
    ],
    ids=["paused", "blocked", "drained just now", "drained before", "claimed", "done", "for later"],
)
def test_the_sweeper_rings_where_nobody_is_at_work_and_somebody_could_be(
    sent: Sent, mine: int, given: Callable[[], object], rings: bool
) -> None:
    waiting_unrung(sent)
    given()

    sweep.sweep_lanes()

    assert rung(sent) == ([mine] if rings else [])


def test_resuming_rings(sent: Sent, mine: int) -> None:
    lanes.pause(mine)
    increment_value.delay(COUNTER)
    assert rung(sent) == [mine]
    drain_task(mine)
    assert not Counter.objects.exists()

    lanes.resume(mine)
    assert rung(sent) == [mine]
    drain_task(mine)
    assert Counter.objects.get().value == 1


def test_the_sweeper_goes_on_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    happens: list[Exception | None] = [OperationalError("no server"), ValueError("a fault"), None]

    def look() -> None:
        error = happens.pop(0)
        if error is not None:
            raise error
        sweeper._stopped.set()

    monkeypatch.setattr(sweeper, "INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(sweeper, "JITTER_SECONDS", 0)
    of_test = sweeper.Sweeper()
    of_test.always, of_test.in_turn = (), (look,)
    try:
        of_test.run()
    finally:
        sweeper._stopped.clear()

    assert happens == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert "The sweeper could not look: no server. It looks again in a moment." in caplog.text


# --- Answering ------------------------------------------------------------------------------------------------------


def test_one_message_is_enough_for_every_lane_that_was_rung(sent: Sent, mine: int) -> None:
    names = [f"lane-{number}" for number in range(20)]
    results = [increment_value.delay(name) for name in names]
    assert len(set(rung(sent))) > 1

    drain_task(mine)

    assert [result.state for result in results] == ["SUCCESS"] * len(names)
    assert not Doorbell.objects.filter(rung=True).exists()


def test_a_doorbell_that_was_answered_already_takes_no_lock(monkeypatch: pytest.MonkeyPatch, mine: int) -> None:
    increment_value.delay(COUNTER)
    drain_task(mine)
    monkeypatch.setattr(sql, "lock_lane", lambda lane, **kwargs: pytest.fail("there is nothing to do"))

    drain_task(mine)
    drain_task(mine)


def test_a_drain_that_lost_its_flag_is_made_up_for_by_a_second_message(mine: int) -> None:
    result = increment_value.delay(COUNTER)
    doorbell.answer(mine)  # and dies

    drain_task(mine)

    assert result.state == "SUCCESS"
