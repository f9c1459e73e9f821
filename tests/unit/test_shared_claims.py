"""Which calls share a claim, how many of them, in what order; and what is given back."""

import os
import signal
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from celery import current_app, shared_task
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from handbell import testing
from handbell.celery.batch import Batch
from handbell.common.shared import SharedMapping
from handbell.errors import CallRefused
from handbell.models import Call, Doorbell
from handbell.plain import batch_slots, batching, result_buffer, revoke, sql
from handbell.plain.batch_watch import BatchWatch
from handbell.plain.pace import BATCH_SECONDS, MAX_BATCH_CALLS, BatchSize, Durations
from tests import plain
from tests.unit.conftest import Message

QUEUE = "cpu"
TOKEN = 4711


@shared_task(queue=QUEUE, max_crashes=1)  # type: ignore[call-overload]
def once() -> None: ...


@shared_task(queue=QUEUE, rate_limit="1/m")
def rarely() -> None: ...


@shared_task(queue=QUEUE, shares_claims=False)  # type: ignore[call-overload]
def alone() -> None: ...


# --- How many ---------------------------------------------------------------------------------------------------------


def test_one_at_first_then_twice_as_many_until_they_fill_a_moment() -> None:
    size, limits = BatchSize(), []
    for _ in range(10):
        limits.append(size.limit(10_000, 2))
        for _ in range(limits[-1]):
            size.durations.note(0.001)
        size.note_end(was_surprising=False)
    assert limits == [1, 2, 4, 8, 16, 32, 50, 50, 50, 50]

    size.note_end(was_surprising=True)
    assert size.limit(10_000, 2) == 1


def test_however_quick_there_are_never_too_many_and_each_process_is_left_its_share() -> None:
    size = BatchSize()
    for _ in range(20):
        size.durations.note(1e-6)
        size.note_end(was_surprising=False)
    assert size.limit(10_000, 2) == MAX_BATCH_CALLS
    assert [size.limit(waiting, 4) for waiting in (1, 8, 9, 80)] == [1, 1, 2, 10]


def test_durations_that_vary_are_expected_to_be_long() -> None:
    steady, varying = Durations(), Durations()
    for number in range(100):
        steady.note(0.01)
        varying.note(0.001 if number % 2 else 0.019)
    assert steady.expected == pytest.approx(0.01)
    assert 0.02 < varying.expected < 0.04 < BATCH_SECONDS


# --- Which, and in what order -----------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_must_not_share_has_a_message_of_its_own() -> None:
    add: Any = plain.add
    tasks: Any = (once, rarely, alone)
    shared: Any = (
        lambda: add.delay(1, 1),
        lambda: add.apply_async((1, 1), priority=3),
        lambda: add.apply_async((1, 1), expires=60),
        lambda: add.apply_async((1, 1), time_limit=60),
    )
    for call in shared:
        assert Call.objects.get(task_id=call().id).is_shared
    own: Any = (
        *(task.delay for task in tasks),
        lambda: add.apply_async((1, 1), countdown=60),
        lambda: add.apply_async((1, 1), exchange="elsewhere", routing_key="a.b"),
    )
    for call in own:
        assert not Call.objects.get(task_id=call().id).is_shared


@pytest.mark.django_db
def test_they_are_claimed_by_priority_and_then_in_their_order() -> None:
    add: Any = plain.add
    ids = [add.apply_async((number, 0), priority=priority).id for number, priority in enumerate([3, 9, 0, 9, 3])]
    calls = batching.claim_batch(QUEUE, 4)

    assert [call.message.task_id for call in calls] == [ids[1], ids[3], ids[0], ids[4]]
    assert len({call.token for call in calls}) == 1
    assert batching.count_waiting(QUEUE, 10) == 1


@pytest.mark.django_db
def test_one_that_was_forgotten_while_it_waited_is_not_run() -> None:
    first, second = plain.add.delay(1, 1), plain.add.delay(2, 2)
    first.forget()

    assert [call.message.task_id for call in batching.claim_batch(QUEUE, 10)] == [second.id]
    assert list(Call.objects.values_list("task_id", flat=True)) == [second.id]


@pytest.mark.django_db
def test_what_comes_after_the_one_that_runs_is_given_back() -> None:
    add: Any = plain.add
    for priority in (3, 9, 3, 0):
        add.apply_async((1, 1), priority=priority)
    calls = batching.claim_batch(QUEUE, 10)

    assert batching.release_after(calls[1].token + 1, calls[1].id) == set()
    assert batching.release_after(calls[1].token, calls[1].id) == {QUEUE}
    left = Call.objects.filter(claimed_by="").values_list("pk", flat=True)
    assert set(left) == {calls[2].id, calls[3].id}


# --- Help from the main process ---------------------------------------------------------------------------------------


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker."""
    for name in ("_running", "_recalled"):
        monkeypatch.setattr(getattr(batch_slots, name), "_memory", None)
    monkeypatch.setattr(batch_slots._Results, "memory", None)
    batch_slots.open_tables()


@pytest.mark.usefixtures("tables")
@pytest.mark.django_db
def test_of_a_batch_whose_call_takes_long_the_rest_is_given_back_and_results_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = [plain.add.delay(number, 0) for number in range(4)]
    calls = batching.claim_batch(QUEUE, 10)
    watch = BatchWatch("here")
    monkeypatch.setattr("handbell.plain.batch_watch.MAX_UNWRITTEN_SECONDS", 0)
    with batch_slots.batch_slot() as slot:
        assert slot is not None
        slot.begin_batch(calls[0].token)
        assert slot.begin(calls[0].id, 60)
        assert slot.add_result(
            (
                results[0].id,
                calls[0].token,
                {
                    "status": "SUCCESS",
                    "result": "0",
                    "meta": "{}",
                    "date_done": "2026-01-01 00:00:00+00:00",
                    "date_started": None,
                    "worker": "here",
                },
            )
        )
        assert slot.begin(calls[1].id, -1)
        watch.look()
        assert slot.is_recalled
        assert not slot.begin(calls[2].id, 60)
    assert [result.state for result in results[:2]] == ["SUCCESS", "PENDING"]
    assert set(Call.objects.filter(claimed_by="").values_list("task_id", flat=True)) == {it.id for it in results[2:]}
    assert Call.objects.get(task_id=results[1].id).claimed_by != ""


@pytest.mark.usefixtures("tables")
def test_of_a_process_that_was_killed_it_is_known_what_ran_and_what_had_ended() -> None:
    read, write = os.pipe()
    if not (pid := os.fork()):
        with batch_slots.batch_slot() as slot:
            assert slot is not None
            slot.begin_batch(TOKEN)
            slot.add_result(("first", TOKEN, {"status": "SUCCESS"}))
            slot.begin(2, 60)
            os.write(write, b"x")
            signal.pause()
    os.read(read, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert batch_slots.end_of_process(pid) == (2, [("first", TOKEN, {"status": "SUCCESS"})])
    assert batch_slots.end_of_process(pid) == (None, [])
    assert not list(batch_slots.running_batches())


@pytest.mark.usefixtures("tables")
@pytest.mark.django_db
@pytest.mark.parametrize("error", [OperationalError("away"), ValueError("whatever it is")])
def test_the_watch_goes_on_after_an_error_and_tries_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [plain.add.delay(number, 0) for number in range(2)]
    calls, watch = batching.claim_batch(QUEUE, 10), BatchWatch("here")
    with batch_slots.batch_slot() as slot:
        assert slot is not None
        slot.begin_batch(calls[0].token)
        slot.begin(calls[0].id, -1)
        with monkeypatch.context() as patch:
            patch.setattr("handbell.common.attempt.connection.close", lambda: None)  # that of the test
            patch.setattr("handbell.plain.batch_watch.release_after", mock.Mock(side_effect=error))
            assert not watch.look()
        assert watch.look()
    assert Call.objects.get(task_id=results[1].id).claimed_by == ""


@pytest.mark.django_db
def test_what_nobody_could_ring_for_is_rung_for_by_the_sweeper(sent: Callable[[], list[Message]]) -> None:
    """Its caller was killed after the commit, and nobody has ever rung for this queue."""
    result = plain.add.delay(1, 1)
    sent()
    Doorbell.objects.all().delete()
    batching.ring_waiting_batches()
    assert not Doorbell.objects.exists()
    Call.objects.update(enqueued_at=timezone.now() - 2 * batching.RING_AFTER)
    batching.ring_waiting_batches()
    assert Doorbell.objects.get().name == f"queue:{QUEUE}"
    assert Call.objects.get().task_id == result.id


@pytest.mark.usefixtures("tables")
@pytest.mark.django_db
def test_a_batch_is_run_in_one_claim_and_one_commit_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [plain.add.delay(number, 0) for number in range(40)]
    monkeypatch.setattr(BatchSize, "limit", lambda self, waiting, processes: 40)
    monkeypatch.setattr(result_buffer, "MAX_BUFFERED_SECONDS", 60)
    written, finish = [], sql.finish_calls
    monkeypatch.setattr(sql, "finish_calls", lambda found: written.append(len(found)) or finish(found))  # type: ignore[func-returns-value]
    with batch_slots.batch_slot() as slot, CaptureQueriesContext(connection) as queries:
        batch = Batch(QUEUE, "here", slot)
        while batch.run():
            pass
    assert sum("SET claimed_by = " in query["sql"] for query in queries) == 1
    assert written == [40]
    assert [result.get() for result in results] == list(range(40))
    assert not Call.objects.exists()


@pytest.mark.django_db
def test_an_unknown_task_among_them_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [plain.add.delay(1, 1), plain.total.delay([1, 2])]
    with monkeypatch.context() as patch:
        patch.delitem(current_app.tasks, plain.add.name)
        batch = Batch(QUEUE, "here", None)
        while batch.run():
            pass
    assert [result.state for result in results] == ["FAILURE", "SUCCESS"]
    assert "never registered" in repr(results[0].result)


@pytest.mark.django_db
def test_one_that_is_claimed_and_has_not_begun_is_revoked_once_it_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = plain.add.delay(1, 1), plain.add.delay(2, 2)
    calls = batching.claim_batch(QUEUE, 10)
    looks: Any = iter([lambda: None, lambda: batching.release_claimed(calls[0].token, [calls[1].id])])
    monkeypatch.setattr("handbell.common.polling.time.sleep", lambda seconds: next(looks)())

    assert revoke.revoke(second.id) == "cancelled"
    monkeypatch.undo()
    with pytest.raises(CallRefused, match="it runs"):
        revoke.revoke(first.id)
    assert [first.state, second.state] == ["PENDING", "REVOKED"]


@pytest.mark.django_db
def test_one_that_has_expired_is_revoked() -> None:
    add: Any = plain.add
    result = add.apply_async((1, 1), expires=-1)
    testing.run_all()
    assert result.state == "REVOKED"


def test_what_the_main_process_says_of_a_task_is_known_to_all() -> None:
    mapping = SharedMapping()
    assert mapping.get("a") is None
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.read(read, 1)
        os._exit(mapping.get("a") != [1, None] or mapping.get("b") is not True)
    mapping.set("a", [1, None])
    mapping.set("b", True)
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
