"""The odd cases of a drain: tasks it does not know, operations that kill their process, drains that meet."""

import subprocess
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import OperationalError, connection

from handbell import serial_task
from handbell.common.claims import WORKER_ID, claim_owner
from handbell.models import Doorbell, Lane, LaneCount, Operation
from handbell.serial import doorbell, lanes, sql
from handbell.serial import drain as drain_module
from handbell.serial.apply import BatchApplier
from handbell.serial.claim import OperationClaim, confirm_claim
from handbell.serial.doorbell import doorbell_name
from handbell.serial.drain import MAX_BATCH_OPERATIONS, MAX_CRASHES, LaneDrain
from handbell.serial.interrupted import recover_operations
from handbell.testing import run_operations
from tasks_app.models import Counter, Entry
from tasks_app.tasks import increment_value
from tests.lanes_app.tables import Document, lane, operation, state

pytestmark = pytest.mark.django_db
COUNTER = "drained"


@serial_task(on=Document)
def append(document: Document, word: str) -> int:
    document.words.append(word)
    return len(document.words)


@pytest.fixture
def mine() -> int:
    return lane(Counter.key_of(COUNTER))


def expire_claims() -> None:
    recover_operations(WORKER_ID)


class Killed(BaseException):
    """The end of the process."""


# --- Unknown tasks --------------------------------------------------------------------------------------------------


def forget_the_task(number: int) -> None:
    """As if this deployment did not have the task of operation `number` (from 0)."""
    Operation.objects.filter(pk=Operation.objects.order_by("id")[number].pk).update(task="tasks_app.tasks.newer")


def test_an_operation_of_an_unknown_task_fails_in_a_sentence() -> None:
    results = [increment_value.delay(COUNTER) for _ in range(3)]
    forget_the_task(1)

    assert run_operations() == 3

    assert [results[0].get(), results[2].get()] == [1, 2]
    assert str(results[1].result) == (
        "This deployment has no serial task called tasks_app.tasks.newer. Deploy it, then retry the operation."
    )


def test_an_operation_of_an_unknown_task_waits_for_a_newer_worker(settings: LazySettings) -> None:
    settings.HANDBELL_SERIAL_UNKNOWN_TASKS = "wait"
    results = [increment_value.delay(COUNTER) for _ in range(3)]
    forget_the_task(1)

    assert run_operations() == 1
    assert run_operations() == 0
    assert [result.state for result in results] == ["SUCCESS", "PENDING", "PENDING"]

    Operation.objects.filter(status="queued").update(task=increment_value.name)  # now it is deployed
    assert run_operations() == 2
    assert results[2].get() == 3


def test_a_plain_task_is_not_a_serial_one() -> None:
    result = increment_value.delay(COUNTER)
    Operation.objects.update(task="tasks_app.tasks.fibonacci")

    run_operations()

    assert "has no serial task called tasks_app.tasks.fibonacci" in str(result.result)


# --- Operations that kill their process -----------------------------------------------------------------------------


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that adds 666 kills the process that runs it."""
    run = BatchApplier.apply

    def apply(applier: BatchApplier, number: int) -> object:
        if "666" in applier._batch[number][0].arguments:
            raise Killed
        return run(applier, number)

    monkeypatch.setattr(BatchApplier, "apply", apply)


def drain_until_nothing_waits(number: int) -> int:
    """Answer the doorbell of a lane again and again, as processes do that crash; how many of them crashed."""
    for crashes in range(20):
        try:
            answered = doorbell.answer(number)
            assert answered is not None
            while LaneDrain(*answered).run():
                answered = doorbell.answer(number) or answered
        except Killed:
            expire_claims()
        else:
            return crashes
    raise AssertionError("nothing helped")


@pytest.mark.usefixtures("poison")
def test_an_operation_that_kills_its_process_is_given_up_and_its_neighbours_are_kept(mine: int) -> None:
    results = increment_value.delay_many((COUNTER, by) for by in [1, 2, 666, 3, 4])

    crashes = drain_until_nothing_waits(mine)

    assert crashes == MAX_CRASHES + 1  # the first of them, within a batch, might have been anybody's fault
    assert [result.state for result in results] == ["SUCCESS", "SUCCESS", "FAILURE", "SUCCESS", "SUCCESS"]
    assert Counter.objects.get().value == 10
    lost = operation(results[2])
    assert (lost.status, lost.attempts) == ("lost", MAX_CRASHES + 1)
    assert "The process died 3 times while it ran this operation" in str(results[2].result)
    assert {operation(results[number]).attempts for number in (0, 1, 3, 4)} == {1}


@pytest.mark.usefixtures("poison")
def test_two_operations_that_kill_their_process_are_both_given_up(mine: int) -> None:
    results = increment_value.delay_many((COUNTER, by) for by in [666, 1, 666, 2])

    drain_until_nothing_waits(mine)

    assert [operation(result).status for result in results] == ["lost", "succeeded", "lost", "succeeded"]


@pytest.mark.usefixtures("poison")
def test_once_it_is_fixed_it_can_be_run_again(mine: int, monkeypatch: pytest.MonkeyPatch) -> None:
    result = increment_value.delay(COUNTER, 666)
    drain_until_nothing_waits(mine)
    monkeypatch.undo()

    lanes.retry_operation(operation(result).pk)
    run_operations()

    assert result.get() == 666
    assert operation(result).attempts == 1


def test_who_dies_for_another_reason_costs_nobody_anything(mine: int) -> None:
    """Deploys and lack of memory kill processes, too: whatever ran then runs again."""
    results = [increment_value.delay(COUNTER) for _ in range(3)]
    for _ in range(10):  # these died before their first commit
        doorbell.answer(mine)
        recover_operations(WORKER_ID)

    answered = doorbell.answer(mine)
    assert answered is not None
    drain = LaneDrain(*answered)
    assert drain.one_by_one
    drain.run()

    assert [result.get() for result in results] == [1, 2, 3]
    assert Doorbell.objects.get(pk=doorbell_name(mine)).crash_count == 0
    assert Doorbell.objects.get(pk=doorbell_name(mine)).one_by_one == MAX_BATCH_OPERATIONS - 3


def test_operations_are_run_one_by_one_for_a_batch_only(mine: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "MAX_BATCH_OPERATIONS", 4)
    for _ in range(10):
        increment_value.delay(COUNTER)
    drain = LaneDrain(mine, crash_count=2)
    drain.run()

    assert (drain.applied, drain.one_by_one, Counter.objects.get().value) == (10, 0, 10)
    assert Doorbell.objects.get(pk=doorbell_name(mine)).one_by_one == 0


def test_once_what_killed_a_process_is_found_batches_go_on(mine: int) -> None:
    results = increment_value.delay_many((COUNTER, 1) for _ in range(50))
    Operation.objects.filter(pk=operation(results[2]).pk).update(
        attempts=1
    )  # it has killed a process when it ran alone
    drain = LaneDrain(mine, crash_count=1)
    drain.run()

    assert (drain.applied, drain.one_by_one, Counter.objects.get().value) == (50, 0, 50)
    assert len({operation(result).finished_at for result in results[3:]}) == 1


@pytest.mark.django_db(transaction=True)  # it closes the connection
def test_a_drain_that_breaks_off_in_an_outage_is_no_crash(mine: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any) -> None:
        raise OperationalError("canceling statement due to statement timeout")

    result = increment_value.delay(COUNTER)
    monkeypatch.setattr(sql, "complete_operations", away)
    for _ in range(5):
        drain_module.drain(mine)
    found = Doorbell.objects.get(pk=doorbell_name(mine))
    assert (found.crash_count, found.one_by_one, found.claimed_by) == (0, 0, "")
    monkeypatch.undo()
    run_operations()
    assert (result.get(), operation(result).attempts) == (1, 1)


class NoSpace(Exception):
    """What psycopg2 raises when the disk is full."""

    pgcode = "53100"


@serial_task(key="full disk")
def write_to_a_full_disk() -> str:
    if Entry.objects.filter(title="room").exists():
        return "written"
    raise OperationalError("could not extend file: No space left on device") from NoSpace()


@pytest.mark.django_db(transaction=True)  # it closes the connection
def test_an_operation_that_finds_the_disk_full_is_applied_when_it_is_not() -> None:
    result = write_to_a_full_disk.delay()
    full = operation(result).lane
    for _ in range(3):
        drain_module.drain(full)
    assert operation(result).status == "queued"
    Entry.objects.create(title="room")
    run_operations()
    assert (result.get(), operation(result).attempts) == ("written", 1)


def test_another_who_answers_meanwhile_does_not_hide_who_drains(mine: int) -> None:
    increment_value.delay(COUNTER)
    doorbell.answer(mine)
    Doorbell.objects.update(claimed_by="a-worker 1 2#3")
    doorbell.answer(mine)
    doorbell.leave(mine)
    assert Doorbell.objects.get(pk=doorbell_name(mine)).claimed_by == "a-worker 1 2#3"
    recover_operations("a-worker 1 2")
    assert Doorbell.objects.get(pk=doorbell_name(mine)).crash_count == 1


def test_whoever_answers_after_a_process_that_is_dead_counts_the_crash(mine: int) -> None:
    """Its worker may see the death later than another process, on the same machine, gets the next message."""
    increment_value.delay(COUNTER)
    with subprocess.Popen(["sleep", "60"]) as process:
        first = claim_owner(process.pid)
        Doorbell.objects.update(claimed_by=first)
        assert doorbell.answer(mine) == (mine, 0, 0)
        assert Doorbell.objects.get(pk=doorbell_name(mine)).claimed_by == first
        process.kill()
    assert doorbell.answer(mine) == (mine, 1, 0)
    assert Doorbell.objects.get(pk=doorbell_name(mine)).claimed_by == claim_owner()
    doorbell.count_crashes(first)
    assert Doorbell.objects.get(pk=doorbell_name(mine)).crash_count == 1


# --- Drains that meet -----------------------------------------------------------------------------------------------


def test_doorbells_answered_at_the_same_time_are_no_crashes(mine: int) -> None:
    """Ten processes answer before the first of them has the lock; the last one gets it."""
    result = increment_value.delay(COUNTER)
    answers = [doorbell.answer(mine) for _ in range(10)]

    for answered in reversed(answers):
        assert answered is not None
        drain = LaneDrain(*answered)
        assert not drain.one_by_one
        drain.run()

    assert (result.state, result.get(), operation(result).attempts) == ("SUCCESS", 1, 1)


def test_a_drain_that_was_overtaken_leaves_the_operation_to_the_one_that_overtook_it(
    mine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was frozen between its claim and the lock, for longer than the claim holds."""
    results = [increment_value.delay(COUNTER) for _ in range(2)]
    overtaken: list[Any] = []

    def overtake(claim: OperationClaim) -> bool:
        if not overtaken:
            overtaken.append(claim)
            expire_claims()
            LaneDrain(mine, crash_count=2).run()
        return confirm_claim(claim)

    monkeypatch.setattr(drain_module, "confirm_claim", overtake)
    drain = LaneDrain(mine, crash_count=2)
    drain.run()

    assert drain.applied == 0
    assert [result.get() for result in results] == [1, 2]
    assert Counter.objects.get().version == 2


def test_a_lane_that_is_paused_blocked_or_gone_is_left_alone(mine: int) -> None:
    result = increment_value.delay(COUNTER)
    for values in ({"paused": True}, {"paused": False, "blocked_by": 1}):
        Lane.objects.filter(pk=mine).update(**values)
        assert LaneDrain(mine, crash_count=1).run() is False
    assert LaneDrain(4711, crash_count=1).run() is False
    assert state(result) == "PENDING"


def test_the_number_of_lanes_is_looked_up_under_the_lock(mine: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have changed since the drain began."""
    lock = sql.lock_lane
    seen: list[Any] = []
    prepare = BatchApplier.prepare

    def change_then_lock(number: int) -> sql.LaneLock:
        if not seen:
            lanes.resize(1)
        return lock(number)

    def look(applier: BatchApplier, batch: list[object]) -> None:
        seen.append(applier.lanes)
        prepare(applier, batch)  # type: ignore[arg-type]

    increment_value.delay(COUNTER)
    monkeypatch.setattr(sql, "lock_lane", change_then_lock)
    monkeypatch.setattr(BatchApplier, "prepare", look)
    LaneDrain(0).run()

    assert seen == [1]
    assert LaneCount.objects.get().count == 1


def test_a_process_that_is_silent_in_a_batch_loses_the_lane(settings: LazySettings, mine: int) -> None:
    settings.HANDBELL_SERIAL_IDLE_SECONDS = 7
    assert sql.lock_lane(mine) is sql.LaneLock.OPEN

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            assert cursor.fetchone() == ("7s",)
