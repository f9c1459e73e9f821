"""External operations: outside any transaction, at least once, and still one at a time within their lane."""

from collections.abc import Iterator

import pytest
from django.db import connection

from handbell import serial_task
from handbell.common.claims import WORKER_ID, new_claim_token
from handbell.errors import LaneRefused
from handbell.models import Lane, Operation
from handbell.serial import interrupted, lanes, sql
from handbell.serial.claim import OperationClaim, claim_operation, run_external
from handbell.serial.drain import MAX_CRASHES, LaneDrain
from handbell.testing import run_operations
from tasks_app.models import Counter
from tasks_app.tasks import increment_value
from tests.lanes_app.tables import lane, operation

pytestmark = pytest.mark.django_db
KEY = Counter.key_of("external")
happened: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_has_happened() -> Iterator[None]:
    happened.clear()
    yield
    happened.clear()


@pytest.fixture
def mine() -> int:
    return lane(KEY)


@serial_task(key=KEY, external=True)
def send(text: str, *, fail: bool = False) -> str:
    """Stands for an e-mail. What it notes is noted even if it fails."""
    happened.append(text)
    if fail:
        raise ConnectionError(text)
    return text.upper()


@serial_task(key=KEY, external=True, on_failure="block")
def pay(amount: int) -> None:
    raise ConnectionError("no bank")


@serial_task(key=KEY, external=True)
def look_around() -> list[bool | int]:
    return [connection.in_atomic_block, Counter.objects.get(pk="external").value]


@serial_task(key=KEY, external=True)
def reach_for_the_row() -> None:
    counter = Counter.objects.get(pk="external")
    counter.value = 1000
    counter.save()


@serial_task(key=KEY, external=True)
def go_on() -> str:
    return str(increment_value.delay("external", 100).id)


def expire_claims() -> None:
    interrupted.recover_operations(WORKER_ID)


def claim_first(number: int) -> OperationClaim:
    """As a drain does before it runs an external operation; the rest is up to the test."""
    (first, *_) = sql.pending_operations(number, 10)
    return claim_operation(first, new_claim_token())


def drain(number: int) -> bool:
    return LaneDrain(number).run()


def test_it_takes_its_turn_among_the_others() -> None:
    results = [increment_value.delay("external"), send.delay("a"), increment_value.delay("external"), send.delay("b")]

    assert run_operations() == 4

    assert [result.get() for result in results] == [1, "A", 2, "B"]
    assert happened == ["a", "b"]
    assert [operation(result).attempts for result in results] == [1, 1, 1, 1]
    assert operation(results[1]).claim_token is None


@pytest.mark.django_db(transaction=True)
def test_it_runs_outside_any_transaction_after_what_came_before_it_is_kept() -> None:
    increment_value.delay("external", 5)
    result = look_around.delay()
    increment_value.delay("external", 5)

    run_operations()

    assert result.get() == [False, 5]


def test_a_failure_is_its_own_and_the_lane_goes_on() -> None:
    failed, after = send.delay("x", fail=True), increment_value.delay("external")

    run_operations()

    assert failed.state == "FAILURE"
    assert getattr(failed.result, "args", None) == ("x",)
    assert "raise ConnectionError(text)" in str(failed.traceback)
    assert after.get() == 1


def test_a_failure_that_blocks_holds_the_lane(mine: int) -> None:
    failed, after = pay.delay(1), increment_value.delay("external")

    run_operations()

    assert (failed.state, after.state) == ("FAILURE", "PENDING")
    assert Lane.objects.get(pk=mine).blocked_by == operation(failed).pk
    lanes.skip(mine)
    run_operations()
    assert after.get() == 1


def test_a_row_of_a_serial_model_is_out_of_its_reach() -> None:
    increment_value.delay("external")
    refused, enqueued = reach_for_the_row.delay(), go_on.delay()

    run_operations()

    assert type(refused.result).__name__ == "OutsideLane"
    assert enqueued.state == "SUCCESS"
    assert Counter.objects.get().value == 101


def test_while_its_owner_is_at_work_nobody_passes(mine: int) -> None:
    sent, after = send.delay("a"), increment_value.delay("external")
    claim_first(mine)

    assert drain(mine) is False
    assert (sent.state, after.state, happened) == ("STARTED", "PENDING", [])
    with pytest.raises(LaneRefused, match="does not wait any more"):
        lanes.cancel_operation(operation(sent).pk)
    with pytest.raises(LaneRefused, match="is running"):
        lanes.resize(3)


def test_while_its_owner_is_at_work_nobody_overtakes_it_from_behind_either(mine: int) -> None:
    """Operations that were called earlier may come to the lane later: retried, due only now, or committed late."""
    early = increment_value.apply_async(("external",), countdown=60)
    sent = send.delay("a")
    claim = claim_first(mine)
    Operation.objects.filter(task_id=early.id).update(not_before=None)

    assert drain(mine) is False
    assert (early.state, sent.state) == ("PENDING", "STARTED")

    run_external(mine, claim)
    assert drain(mine) is False
    assert (early.get(), sent.get(), happened) == (1, "A", ["a"])


def test_when_its_owner_is_gone_it_is_run_again(mine: int) -> None:
    sent, after = send.delay("a"), increment_value.delay("external")
    claim_first(mine)
    expire_claims()

    run_operations()

    assert (sent.get(), after.get(), happened) == ("A", 1, ["a"])
    assert operation(sent).attempts == 2


def test_after_three_owners_that_died_it_is_lost_and_the_lane_goes_on(mine: int) -> None:
    sent, after = send.delay("a"), increment_value.delay("external")
    for _ in range(MAX_CRASHES):
        claim_first(mine)
        expire_claims()

    run_operations()

    assert (sent.state, operation(sent).status, after.get(), happened) == ("FAILURE", "lost", 1, [])


def test_the_result_of_a_late_owner_is_refused(mine: int) -> None:
    """It was frozen for longer than its claim held, and somebody else has run the operation meanwhile."""
    sent, after = send.delay("a"), increment_value.delay("external")
    late = claim_first(mine)
    expire_claims()
    run_operations()
    before = operation(sent)

    run_external(mine, late)

    assert happened == ["a", "a"]  # its effect has happened twice: at least once
    assert operation(sent).finished_at == before.finished_at
    assert operation(sent).attempts == 2
    assert after.get() == 1


def test_the_result_of_a_late_owner_is_refused_while_its_successor_is_at_work(mine: int) -> None:
    sent = send.delay("a")
    late = claim_first(mine)
    expire_claims()
    successor = claim_first(mine)

    run_external(mine, late)
    assert sent.state == "STARTED"
    assert operation(sent).claim_token == successor.token

    run_external(mine, successor)
    assert sent.get() == "A"
    assert operation(sent).attempts == 2


def test_the_result_of_a_late_owner_is_refused_although_a_retry_counts_anew(mine: int) -> None:
    sent = send.delay("a")
    late = claim_first(mine)
    Operation.objects.filter(task_id=sent.id).update(status="lost", claimed_by="", claim_token=None)
    lanes.retry_operation(operation(sent).pk)
    successor = claim_first(mine)
    assert successor.attempt == late.attempt

    run_external(mine, late)
    assert sent.state == "STARTED"

    run_external(mine, successor)
    assert sent.get() == "A"


def test_the_failure_of_a_late_owner_does_not_block_the_lane(mine: int) -> None:
    paid = pay.delay(1)
    late = claim_first(mine)
    Operation.objects.filter(task_id=paid.id).update(status="succeeded", result="null", attempts=2, claim_token=None)

    run_external(mine, late)

    assert paid.state == "SUCCESS"
    assert Lane.objects.get(pk=mine).blocked_by is None
