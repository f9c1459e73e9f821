"""What a task may do with its own call while it runs: replace it, retry it, give it up. And what is called after it."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import celery
import pytest
from celery import Task, chain, chord, current_app, group, shared_task, states
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_results.models import TaskResult
from kombu.exceptions import ContentDisallowed, EncodeError

from handbell import ProcessDied, delete_finished, status, testing
from handbell.celery import backend as backend_module
from handbell.celery.batch import run_claimed_call
from handbell.celery.call_run import CallRun
from handbell.common.claims import WORKER_ID
from handbell.models import Call
from handbell.plain import crash_recovery, sql
from handbell.plain.batching import ClaimedCall
from handbell.plain.message import Message
from tests import plain

add: Any = plain.add  # with options that its types leave out

TOKEN = 1
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_broker() -> Any:
    with testing.without_broker():
        yield


@shared_task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task(bind=True)
def replaced(self: Any, how: str) -> Any:
    signatures: dict[str, Callable[[], Any]] = {
        "task": lambda: add.si(1, 2),
        "chain": lambda: add.si(0, 1) | add.s(2),
        "group": lambda: group(add.si(1, 2), add.si(3, 4)),
        "chord": lambda: chord([add.si(0, 1), add.si(0, 2)], total.s()),
    }
    raise self.replace(signatures[how]())


@shared_task(bind=True)
def replaced_in_a_transaction(self: Any) -> Any:
    with transaction.atomic():
        raise self.replace(add.si(1, 2))


@shared_task(bind=True)
def replaced_by_another(self: Any, how: str) -> Any:
    raise self.replace(add.si(1, 2))


@shared_task(bind=True)
def replaced_by_nonsense(self: Any) -> Any:
    raise self.replace(add.si(1, 2, 3))


@shared_task(bind=True, max_retries=3, default_retry_delay=0)
def retried(self: Task[..., Any], how: str) -> int:
    """Twice in a transaction that is rolled back; then it says how often."""
    if self.request.retries < 2:
        with transaction.atomic():
            if how == "raise":
                raise self.retry()
            self.retry(throw=False)
            if how == "error":
                raise ValueError(how)
    return int(self.request.retries)


@shared_task(bind=True)
def gives_up(self: Task[..., Any], how: str) -> None:
    if how == "custom":
        self.update_state(state="PARKED")
    raise Reject("no") if how == "reject" else Ignore


@shared_task
def calls(task_id: str) -> str:
    return str(add.apply_async((1, 1), task_id=task_id).id)


@shared_task
def fails() -> None:
    raise ValueError("no")


@shared_task
def errback(task_id: str) -> str:
    return task_id


def state(result: Any) -> str:
    return str(TaskResult.objects.get(task_id=result.id).status)


# --- self.replace() ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "value"), [("task", 3), ("chain", 3), ("group", [3, 7]), ("chord", 3)])
def test_what_takes_the_place_of_a_task_has_its_result(how: str, value: object) -> None:
    result = replaced.delay(how)
    testing.run_all()

    assert (result.state, result.get()) == ("SUCCESS", value)
    assert not Call.objects.exists()


def test_a_replaced_task_waits_for_what_takes_its_place() -> None:
    result = replaced.delay("chain")
    (call,) = testing._waiting_messages()
    testing._run_call(call)

    assert (result.state, status(result)) == ("PENDING", "waiting")
    assert [message.task for message in testing._waiting_messages()] == [add.name]


def test_replaced_parts_of_a_chord_and_of_a_chain_are_waited_for() -> None:
    parts = chord([replaced.s(how) for how in ("task", "chain", "chord")], total.s()).delay()
    steps = chain(replaced.s("chain"), add.s(10), add.s(100)).delay()
    testing.run_all()

    assert (parts.get(), steps.get()) == (9, 113)


def test_a_link_of_a_replaced_task_is_called_once_with_the_final_result() -> None:
    result = replaced.apply_async(("chain",), link=add.s(10))
    testing.run_all()

    children: Any = result.children
    assert [child.get() for child in children] == [13]


def test_a_replacement_survives_the_transaction_in_which_it_was_asked_for() -> None:
    result = replaced_in_a_transaction.delay()
    testing.run_all()

    assert result.get() == 3


def test_a_replacement_that_cannot_be_called_fails_the_task() -> None:
    result = replaced_by_nonsense.delay()
    testing.run_all()

    assert result.state == "FAILURE"
    assert not Call.objects.exists()


# --- self.retry() -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "return", "error"])
def test_a_retry_is_recorded_whatever_becomes_of_the_transaction_and_of_the_run(how: str) -> None:
    result = retried.delay(how)
    testing.run_all()

    assert (result.state, result.get()) == ("SUCCESS", 2)


def test_between_two_runs_the_state_is_retry() -> None:
    result = retried.delay("raise")
    (call,) = testing._waiting_messages()
    testing._run_call(call)

    assert (result.state, status(result)) == ("RETRY", "queued")
    assert [message.headers["retries"] for message in testing._waiting_messages()] == [1]


def test_a_retry_that_is_not_this_process_any_more_writes_nothing() -> None:
    """The call was given to somebody else meanwhile."""
    result = retried.delay("raise")
    (call,) = testing._waiting_messages()
    assert sql.claim_call(result.id, TOKEN, "here", "{}")
    Call.objects.update(claimed_by="somebody else", claim_token=2)
    run_claimed_call(ClaimedCall(0, TOKEN, call), "here")

    assert list(Call.objects.values_list("claimed_by", "claim_token")) == [("somebody else", 2)]
    assert state(result) == "STARTED"


@pytest.mark.parametrize("task", [retried, replaced_by_another])
def test_the_first_message_does_not_start_what_a_retry_or_a_replacement_has_enqueued(task: Any) -> None:
    """A broker, or the sweeper, may deliver it a second time."""
    result = task.delay("raise")
    (first,) = testing._waiting_messages()
    testing._run_call(first)
    (second,) = testing._waiting_messages()

    for message, is_claimed in ((first, False), (second, True)):
        assert message.task_id == result.id
        assert claimed_by_backend(message) is is_claimed


def test_a_second_message_of_a_call_that_is_claimed_starts_nothing() -> None:
    result = add.delay(1, 1)
    (message,) = testing._waiting_messages()

    assert claimed_by_backend(message)
    assert not claimed_by_backend(message)
    assert state(result) == "STARTED"


def test_a_claim_whose_answer_was_lost_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    add.delay(1, 1)
    (message,) = testing._waiting_messages()
    claim, asked = sql.claim_call, []

    def lose_the_first_answer(*args: Any, **options: Any) -> bool:
        asked.append(args)
        is_ours = claim(*args, **options)
        if len(asked) == 1:
            raise OperationalError("server closed the connection")
        return is_ours

    monkeypatch.setattr(sql, "claim_call", lose_the_first_answer)
    monkeypatch.setattr(backend_module, "retry_through_outage", once_more)

    assert claimed_by_backend(message)
    assert len(asked) == 2


def once_more(write: Any) -> Any:
    """As `retry_through_outage` does outside of a transaction."""
    try:
        return write()
    except OperationalError:
        return write()


def claimed_by_backend(message: Message) -> bool:
    backend: Any = current_app.backend
    return bool(backend.claim(Context({**message.request(), "hostname": "here"}), CallRun()))


# --- raise Ignore, raise Reject ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected", "word"),
    [("ignore", "IGNORED", "cancelled"), ("reject", "FAILURE", "failed"), ("custom", "PARKED", "running")],
)
def test_a_task_that_gives_itself_up_is_over(how: str, expected: str, word: str) -> None:
    result = gives_up.delay(how)
    testing.run_all()

    assert (state(result), status(result)) == (expected, word)
    assert not Call.objects.exists()


# --- Ids that are there already ---------------------------------------------------------------------------------------


def test_a_canvas_that_is_called_again_runs_all_its_steps_again() -> None:
    steps = chain(add.s(1, 2), add.s(3))
    steps.freeze()
    first = steps.delay()
    testing.run_all()
    TaskResult.objects.update(result="0")
    steps.delay()

    assert testing.run_all() == 2
    assert first.get() == 6


def test_an_id_within_a_task_means_what_it_means_elsewhere() -> None:
    add.apply_async((5, 5), task_id="fixed")
    testing.run_all()
    calls.delay("fixed")
    testing.run_all()

    assert TaskResult.objects.get(task_id="fixed").result == "2"


def test_a_call_that_has_not_ended_is_not_called_again(caplog: pytest.LogCaptureFixture) -> None:
    add.apply_async((5, 5), task_id="fixed")
    add.apply_async((1, 1), task_id="fixed")
    testing.run_all()

    assert TaskResult.objects.get(task_id="fixed").result == "10"
    assert "tests.plain.add fixed has been called and has not ended: it is not called again." in caplog.text


# --- What is called after it ------------------------------------------------------------------------------------------


def test_what_follows_is_called_with_the_result_or_not_at_all() -> None:
    """A late owner, whose call has ended meanwhile, calls nothing."""
    result = add.apply_async((1, 2), link=add.s(10), chain=[add.s(20)])
    (call,) = testing._waiting_messages()
    assert sql.claim_call(result.id, TOKEN, "here", "{}")
    sql.finish_call(result.id, None, {"status": "REVOKED"})
    run_claimed_call(ClaimedCall(0, TOKEN, call), "here")

    assert state(result) == "REVOKED"
    assert testing._waiting_messages() == []
    assert TaskResult.objects.count() == 1


def test_errbacks_are_called_with_the_failure() -> None:
    result = fails.apply_async(link_error=errback.s())
    (call,) = testing._waiting_messages()
    testing._run_call(call)

    assert [message.task for message in testing._waiting_messages()] == [errback.name]
    testing.run_all()
    assert TaskResult.objects.get(task_name=errback.name).result == f'"{result.id}"'


def test_a_step_that_fails_fails_the_group_that_the_chain_ends_in() -> None:
    result: Any = chain(add.s(1, 1), fails.si(), group(add.s(1), add.si(1, 1) | add.s(2))).delay()
    testing.run_all()

    assert [part.state for part in result.results] == ["FAILURE", "FAILURE"]
    with pytest.raises(ValueError, match="no"):
        result.get(timeout=1)


# --- Chords -----------------------------------------------------------------------------------------------------------


def test_a_part_that_ends_in_a_group_counts_as_many() -> None:
    result = chord([add.s(1, 1), chain(add.s(1, 1), group(add.s(10), add.s(20)))], flat_sum.s()).delay()
    testing.run_all()

    assert result.get() == 2 + 12 + 22


@shared_task
def flat_sum(numbers: list[Any]) -> int:
    return sum(sum(it) if isinstance(it, list) else it for it in numbers)


@shared_task(bind=True)
def adds_a_part(self: Task[..., Any]) -> int:
    self.add_to_chord(add.si(10, 10))
    return 1


def test_a_part_may_add_another() -> None:
    result = chord([adds_a_part.s(), add.s(1, 1)], total.s()).delay()
    testing.run_all()

    assert result.get() == 1 + 2 + 20


# --- Calls in every form that Celery takes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"eta": dt.datetime(2030, 1, 1, 12)},  # noqa: DTZ001  (that is what is tried)
        {"eta": "2030-01-01T12:00:00"},
        {"eta": "2030-01-01T12:00:00Z"},
        {"eta": dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)},
    ],
)
def test_a_moment_in_every_form(options: dict[str, Any]) -> None:
    add.apply_async((1, 1), **options)

    due = Call.objects.get().send_after + sql.SEND_EARLY
    assert due == dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "options", [{"countdown": -5}, {"expires": 60}, {"expires": timezone.now() + dt.timedelta(hours=1)}]
)
def test_a_countdown_in_the_past_and_an_expiry(options: dict[str, Any]) -> None:
    result = add.apply_async((1, 1), **options)
    testing.run_all()

    assert result.get() == 2


def test_the_older_protocol_of_messages_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: Any = current_app.conf.changes
    monkeypatch.setitem(changes, "task_protocol", 1)
    result = add.delay(1, 2)
    testing.run_all()

    assert result.get() == 3


def test_a_serializer_that_no_worker_accepts_is_refused_at_the_call() -> None:
    with pytest.raises(ContentDisallowed, match="add is not called: workers do not accept application/x-python"):
        add.apply_async((1, 1), serializer="pickle")

    assert not Call.objects.exists()
    assert not TaskResult.objects.exists()


class Counted(celery.Task):  # type: ignore[type-arg]
    """A class of tasks as Celery's documentation has them: derived from Celery's own."""

    abstract = True
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        return super().__call__(*args, **kwargs)


@shared_task(base=Counted)
def of_another_class(number: int) -> int:
    return number


class ByClass(celery.Task):  # type: ignore[type-arg]
    name = "tests.unit.test_call_runs.ByClass"

    def run(self, number: int) -> int:
        return number + 1


def test_tasks_of_another_class_are_recorded() -> None:
    by_class: Any = current_app.register_task(ByClass())
    results = [of_another_class.delay(7), by_class.delay(7)]
    assert [status(result) for result in results] == ["queued", "queued"]
    assert Call.objects.count() == 2
    testing.run_all()

    assert [result.get() for result in results] == [7, 8]
    task: Any = current_app.tasks[of_another_class.name]
    assert type(task).calls == 1


def test_states_in_our_words() -> None:
    result: Any = add.delay(1, 1)
    assert (result.state, result.backend.task_result_exists(result.id), status(result)) == ("PENDING", True, "queued")
    sql.claim_call(result.id, TOKEN, "here", "{}")
    assert status(result.id) == "running"
    assert status("nobody has called this") == "unknown"
    assert not result.backend.task_result_exists("nobody has called this")


@pytest.mark.parametrize(("tracked", "expected"), [(True, states.STARTED), (False, states.PENDING)])
def test_a_running_task_is_started_where_that_is_tracked(
    tracked: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_app.tasks[add.name], "track_started", tracked)
    result = add.delay(1, 1)
    backend: Any = current_app.backend
    backend.claim(celery.app.task.Context(id=result.id, hostname="here"), CallRun())

    assert (result.state, status(result)) == (expected, "running")


# --- Results that go away ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["forget", "delete"])
def test_a_call_whose_result_is_forgotten_while_it_waits_is_cancelled(how: str) -> None:
    result = add.delay(1, 1)
    (call,) = testing._waiting_messages()
    result.forget() if how == "forget" else TaskResult.objects.all().delete()
    request = {**call.request(), "hostname": "here", "is_eager": False}
    build_tracer(add.name, current_app.tasks[add.name], app=current_app)(result.id, [1, 1], {}, request)

    assert not Call.objects.exists()
    assert not TaskResult.objects.exists()


@pytest.mark.parametrize("how", ["cleanup", "delete_finished"])
def test_pruning_takes_only_what_has_ended(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, waits = add.delay(1, 1), add.apply_async((2, 2), countdown=3600)
    testing.run_all()
    TaskResult.objects.update(date_done=timezone.now() - dt.timedelta(days=9))
    if how == "cleanup":
        backend: Any = current_app.backend
        monkeypatch.setattr(backend, "expires", 3600)
        backend.cleanup()
    else:
        delete_finished(timezone.now() - dt.timedelta(days=1))

    assert [status(ended), status(waits)] == ["unknown", "queued"]


# --- What must not begin a second time --------------------------------------------------------------------------------


@shared_task(max_crashes=1)  # type: ignore[call-overload]
def once() -> None:
    """Never begins a second time."""


@pytest.mark.parametrize(("task", "expected"), [(once, "failed"), (add, "queued")])
def test_a_worker_that_leaves_gives_back_only_what_may_begin_twice(task: Any, expected: str) -> None:
    result = task.delay() if task is once else task.delay(1, 1)
    assert sql.claim_call(result.id, TOKEN, "here", "{}")
    crash_recovery.release_calls(WORKER_ID)

    assert status(result) == expected
    if expected == "failed":
        with pytest.raises(ProcessDied, match="lost: its worker was told to stop while it ran"):
            result.get()
        assert not Call.objects.exists()


def test_a_lost_call_can_be_claimed_by_nobody_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    result = once.delay()
    assert sql.claim_call(result.id, TOKEN, "here", "{}")
    in_transaction: list[bool] = []
    backend: Any = current_app.backend
    mark = backend.mark_as_failure

    def note_and_mark(*args: Any, **options: Any) -> None:
        in_transaction.append(len(connection.savepoint_ids) > 0)
        mark(*args, **options)

    monkeypatch.setattr(backend, "mark_as_failure", note_and_mark)
    crash_recovery.recover_call(result.id, TOKEN, "the process that ran it died")

    assert in_transaction == [True]
    assert status(result) == "failed"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite waits for the disk, or never does")
@pytest.mark.parametrize(("task", "waits"), [(once, True), (add, False)])
def test_the_claim_of_what_must_not_begin_twice_waits_for_the_disk(task: Any, waits: bool) -> None:
    result = task.delay() if task is once else task.delay(1, 1)
    backend: Any = current_app.backend
    with CaptureQueriesContext(connection) as queries:
        backend.claim(celery.app.task.Context(id=result.id, task=task.name, hostname="here"), CallRun())

    claims = [it["sql"] for it in queries if "UPDATE handbell_call" in it["sql"]]
    assert ["synchronous_commit" in claim for claim in claims] == [not waits]


# --- Sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_hook_that_calls_a_task_does_not_disturb_the_sending_of_those_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with transaction.atomic():
        add.delay(1, 1)
        transaction.on_commit(lambda: add.delay(2, 2))
        add.delay(3, 3)

    assert Call.objects.count() == 3
    assert "Error calling" not in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_when_a_task_is_replaced_only_delays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result = replaced.delay("task")
    finish_claimed_call, attempts = sql.finish_claimed_call, []

    def away_at_first(*args: Any, **options: Any) -> bool:
        attempts.append(args)
        if len(attempts) == 1:
            raise OperationalError("server closed the connection")
        return finish_claimed_call(*args, **options)

    monkeypatch.setattr(sql, "finish_claimed_call", away_at_first)
    testing.run_calls()

    assert (len(attempts), result.state, result.get()) == (2, "SUCCESS", 3)


def test_arguments_that_no_worker_could_read_are_refused_at_the_call() -> None:
    with pytest.raises(EncodeError, match="no worker could read its arguments"):
        add.delay({"__type__": "note", "__value__": 1}, 1)

    assert not Call.objects.exists()
    assert not TaskResult.objects.exists()


def test_a_header_of_ones_own_is_kept_whatever_its_name() -> None:
    """Many note when they have called a task, to measure how long it waits."""
    task: Any = add
    result = task.apply_async((1, 1), headers={"enqueued_at": "a moment ago"})
    (message,) = testing._waiting_messages()

    assert message.headers["enqueued_at"] == "a moment ago"
    assert claimed_by_backend(message)
    assert state(result) == "STARTED"
