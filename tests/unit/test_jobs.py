"""Jobs: what comes of a source and a pipeline, and what is refused at the call."""

import itertools
import json
import math
import operator
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from celery import chain, shared_task
from django.db import InterfaceError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tasks_app.errors import ItemFailed, JobRefused, NotJson
from tasks_app.models import Chunk, Entry, Failure, Job, Score
from tasks_app.models.job_handle import WORK
from tasks_app.owners import machine
from tasks_app.parallel import claim as claiming
from tasks_app.parallel import finish, over, sweep, work
from tasks_app.parallel.run import Failed, Outcome
from tasks_app.parallel.testing import run_jobs
from tasks_app.tasks import fibonacci, increment_value, scrape_url
from tests.unit.conftest import Message

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[Message]]


@shared_task
def double(item: int) -> int:
    return item * 2


@shared_task
def plus(item: int, more: int, *, times: int = 1) -> int:
    return item + more * times


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


@shared_task
def pick(item: Any) -> Any:
    """Fails, kills, hangs, or gives back what JSON cannot hold, as the item says."""
    match item:
        case "raise":
            raise ValueError("no good\0\ud800")
        case "exit":
            raise SystemExit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(60)
        case "mute":
            raise Mute
        case "set":
            return {1}
        case "deep":
            nested: list[Any] = []
            for _ in range(100_000):
                nested = [nested]
            return nested
        case "nan":
            return math.nan
    return item


@shared_task
def slow(item: int) -> int:
    time.sleep(0.02)
    return item


@shared_task
def in_thread(item: int) -> list[Any]:
    time.sleep(0.01 * (5 - item % 5))
    return [item, threading.get_ident()]


def add(numbers: list[int]) -> int:
    return sum(numbers)


def concatenate(texts: list[str]) -> str:
    return "".join(texts)


def mean(numbers: list[float]) -> float:
    """Not associative."""
    return sum(numbers) / len(numbers)


def store(results: list[int]) -> None:
    Score.objects.bulk_create(Score(item=item, value=item) for item in results)


def store_small(results: list[int]) -> None:
    store(results)
    if max(results) > 90:
        raise OverflowError("too large to store")


@shared_task
def note(job_id: int, word: str = "") -> None:
    Entry.objects.create(title=f"{job_id} {word}")


# --- Results --------------------------------------------------------------------------------------------------------


def test_every_item_has_its_result_by_index_and_in_order() -> None:
    job = over(range(10, 1000, 3)).map(double).start()
    assert run_jobs() > 3
    job.refresh_from_db()

    expected = [item * 2 for item in range(10, 1000, 3)]
    assert (job.status, job.succeeded, job.failed, job.total) == ("succeeded", 330, 0, 330)
    assert list(job.results()) == expected
    assert [job.result(index) for index in (0, 1, 57, 329)] == [expected[index] for index in (0, 1, 57, 329)]
    for index in (-1, 330):
        with pytest.raises(IndexError, match="no such item"):
            job.result(index)


def test_stages_are_fused_and_take_arguments() -> None:
    job = over(range(5)).map(double).map(plus, 100, times=2).map(double).start()
    run_jobs()

    assert list(job.results()) == [(item * 2 + 200) * 2 for item in range(5)]


@pytest.mark.parametrize("count", [0, 1, 2, 25_000])
def test_a_stream_of_items_is_kept_in_blocks(count: int) -> None:
    job = over({"number": number} for number in range(count)).map(pick).start()
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.total, job.done) == ("succeeded", count, count)
    assert [result["number"] for result in job.results()] == list(range(count))
    assert job.blocks.count() <= 3 + count // 10_000


def test_blocks_of_large_items_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    job = over("x" * 100_000 for _ in range(300)).map(pick).start()

    sizes = [len(block.items) for block in job.blocks.order_by("first")]
    assert max(sizes[1:]) < 1_100_000
    assert job.total == 300


def test_a_queryset_gives_its_primary_keys() -> None:
    keys = [Entry.objects.create(title=str(n), live=n % 2 == 0).pk for n in range(6)]
    job = over(Entry.objects.filter(live=True).order_by("pk")).map(pick).start()
    run_jobs()

    assert list(job.results()) == keys[::2]


def test_threads_run_items_side_by_side_in_order_of_results() -> None:
    job = over(range(40)).map(in_thread).start(threads=8, chunk_size=40)
    run_jobs()

    results = list(job.results())
    assert [item for item, _ in results] == list(range(40))
    assert len({thread for _, thread in results}) == 8


def test_results_are_read_a_chunk_at_a_time() -> None:
    job = over(range(100)).map(double).start(chunk_size=10)
    run_jobs()
    with CaptureQueriesContext(connection) as queries:
        assert job.result(95) == 190

    assert len(queries) == 1
    assert job.chunks.count() == 10


def test_results_can_be_dropped() -> None:
    job = over(range(100)).map(double).reduce(add).start(keep_results=False)
    run_jobs()
    job.refresh_from_db()

    assert job.value == 9900
    assert not job.chunks.filter(results__isnull=False).exists()
    with pytest.raises(JobRefused, match="keep_results=False"):
        next(job.results())


# --- Chunks ---------------------------------------------------------------------------------------------------------


def test_chunks_grow_until_they_take_as_long_as_they_should_and_shrink_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claiming, "SHORTEST_SECONDS", 0.0001)
    monkeypatch.setattr(import_module("tasks_app.parallel.work"), "PATIENCE", 1000)  # however busy the machine is
    job = over(range(300_000)).map(double).start(chunk_seconds=0.02)
    run_jobs()

    sizes = list(job.chunks.order_by("first").values_list("count", flat=True))
    assert sizes[0] == 1
    assert all(after <= before * claiming.GROWTH for before, after in itertools.pairwise(sizes))
    assert max(sizes) > 1000
    assert sizes[-1] < max(sizes)


def test_a_chunk_that_takes_too_long_gives_the_rest_back() -> None:
    """Its items were quick so far, and now they are slow."""
    job = over(range(50)).map(slow).start(chunk_seconds=0.05)
    Job.objects.update(seconds_per_item=1e-6, last_size=1000)
    work(job.pk, job.bell)

    chunk = job.chunks.get(status="succeeded")
    assert 1 < chunk.count < 15
    run_jobs()
    assert list(job.results()) == list(range(50))


def test_a_fixed_size_is_kept() -> None:
    job = over(range(25)).map(slow).start(chunk_size=10, chunk_seconds=0.001)
    run_jobs()

    assert list(job.chunks.order_by("first").values_list("count", flat=True)) == [10, 10, 5]


def test_chunks_of_large_results_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MOST_CHARACTERS", 100_000)
    job = over(range(300)).map(inflate).start()
    run_jobs()

    sizes = [len(results or "") for results in job.chunks.values_list("results", flat=True)]
    assert max(sizes) < 200_000
    assert len(list(job.results())) == 300


@shared_task
def inflate(item: int) -> str:
    return "x" * 10_000


def test_chunks_of_large_items_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "MOST_BLOCKS", 2)
    job = over("x" * 100_000 for _ in range(300)).map(length).start()
    Job.objects.update(seconds_per_item=1e-9, last_size=1000)
    assert run_jobs() > 5

    second = job.blocks.order_by("first")[1:2].get().first
    assert max(job.chunks.values_list("count", flat=True)) <= second + 100
    assert list(job.results()) == [100_000] * 300


@shared_task
def length(item: str) -> int:
    return len(item)


# --- Failures -------------------------------------------------------------------------------------------------------


def test_a_failing_item_costs_only_itself() -> None:
    items = [1, "raise", 2, "exit", "set", 3, "nan", "deep"]
    job = over(items).map(pick).start(chunk_size=3)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.succeeded, job.failed) == ("failed", 3, 5)
    assert list(job.results(failed="!")) == [1, "!", 2, "!", "!", 3, "!", "!"]
    failures = list(job.failures())
    assert [(it["index"], json.loads(it["item"])) for it in failures] == [
        (1, "raise"),
        (3, "exit"),
        (4, "set"),
        (6, "nan"),
        (7, "deep"),
    ]
    assert failures[0]["error"] == "ValueError: no good\\x00\\ud800"
    assert 'raise ValueError("no good' in failures[0]["traceback"]
    assert "the result is a set, which JSON cannot hold" in failures[2]["error"]
    with pytest.raises(ItemFailed, match="Item 1 of job .* has failed: ValueError: no good"):
        job.result(1)


@pytest.mark.parametrize("threads", [1, 4])
def test_an_item_that_kills_its_process_or_never_returns_fails_alone(threads: int) -> None:
    items = [1, "die", 2, 3, "hang", 4, "die", 5, 6, 7, "raise"]
    job = over(items).map(pick).start(item_timeout=0.5, threads=threads, chunk_size=len(items))
    run_jobs()
    job.refresh_from_db()

    assert list(job.results(failed="!")) == [1, "!", 2, 3, "!", 4, "!", 5, 6, 7, "!"]
    errors = [it["error"] for it in job.failures()]
    assert "died: killed by signal 9, SIGKILL" in errors[0]
    assert errors[1] == "ItemTimedOut: the item took longer than 0.5 s"
    assert errors[3].startswith("ValueError")


def test_the_neighbour_of_an_item_that_hangs_is_not_to_blame() -> None:
    """It is under way in another thread when their process is killed."""
    job = over([0.0, 60.0, 0.4, 0.4, 0.4]).map(nap).start(item_timeout=0.6, threads=2, chunk_size=5)
    run_jobs()

    assert list(job.results(failed="!")) == [0.0, "!", 0.4, 0.4, 0.4]


@shared_task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@shared_task
def leave_somebody_behind(item: int) -> int:
    """A process that holds everything open for a while."""
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    return item


def test_what_an_item_has_started_does_not_hold_up_the_job() -> None:
    job = over(range(2)).map(leave_somebody_behind).start(item_timeout=20, chunk_size=2)
    started = time.monotonic()
    run_jobs()

    assert list(job.results()) == [0, 1]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("options", [{}, {"item_timeout": 5.0}])
def test_what_json_cannot_hold_is_said_alike_wherever_it_ran(options: dict[str, Any]) -> None:
    job = over(["set"]).map(pick).start(**options)
    run_jobs()

    (failure,) = job.failures()
    assert failure["error"].startswith("NotJson: the result is a set, which JSON cannot hold")


def test_the_number_of_failures_is_exact_and_those_kept_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MOST_FAILURES_KEPT", 7)
    job = over(["raise"] * 30).map(pick).start(chunk_size=4)
    run_jobs()
    job.refresh_from_db()

    assert (job.failed, len(list(job.failures()))) == (30, 7)


def test_too_many_failures_stop_the_job() -> None:
    job = over(["raise"] * 100).map(pick).start(chunk_size=5, max_failures=12)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.failed, job.claimed) == ("failed", 15, 15)
    assert job.error == "stopped: 15 items failed, and max_failures is 12"


@pytest.mark.parametrize("keep", [True, False])
def test_failed_items_are_retried_and_only_those(monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    job = over(["a", "raise", "b", "raise", "c"]).map(pick).reduce(concatenate).start(keep_results=keep, chunk_size=3)
    run_jobs()
    job.refresh_from_db()
    assert (job.status, job.value, job.failed) == ("failed", "abc", 2)

    ran: list[Any] = []

    def mended(item: Any) -> str:
        ran.append(item)
        return "x"

    monkeypatch.setattr(pick, "run", mended)
    job.retry_failed()
    run_jobs()
    job.refresh_from_db()

    assert ran == ["raise", "raise"]
    assert (job.status, job.succeeded, job.failed) == ("succeeded", 5, 0)
    assert job.value == ("axbxc" if keep else "abxcx")
    assert not list(job.failures())
    if keep:
        assert list(job.results()) == ["a", "x", "b", "x", "c"]
    with pytest.raises(JobRefused, match="nothing to retry"):
        job.retry_failed()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ({"stages": [["gone.task", [], {}]]}, "no task called gone.task. Deploy it."),
        ({"reducer": "gone.task"}, "no task called gone.task. Deploy it."),
        ({"saver": "tests.gone:store"}, "no function store in tests.gone. Deploy it."),
    ],
)
def test_an_unknown_task_or_function_fails_every_item_and_says_so(gone: dict[str, Any], said: str) -> None:
    job = over(range(30)).map(double).start(chunk_size=10)
    Job.objects.update(**gone)
    assert run_jobs() == 3  # not in halves: no item is to blame
    job.refresh_from_db()

    assert (job.status, job.failed) == ("failed", 30)
    assert {failure["error"] for failure in job.failures()} == {f"UnknownTask: This deployment has {said}"}


def test_an_error_that_has_no_text_is_described_all_the_same() -> None:
    job = over([1, "mute"]).map(pick).start()
    run_jobs()

    (failure,) = job.failures()
    assert failure["error"] == "Mute: <exception str() failed>"
    assert "raise Mute" in failure["traceback"]


# --- Reduce and save ------------------------------------------------------------------------------------------------


def test_reduce_folds_in_order_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "FOLDED_AT_ONCE", 3)
    letters = [chr(97 + number % 26) for number in range(100)]
    job = over(letters).map(pick).reduce(concatenate).start(chunk_size=7)
    run_jobs()
    job.refresh_from_db()

    assert job.value == "".join(letters)


def test_a_reducer_that_is_not_associative_gives_something_else() -> None:
    job = over([1, 2, 3, 10]).map(pick).reduce(mean).start(chunk_size=3)
    run_jobs()
    job.refresh_from_db()

    assert job.value == mean([mean([1, 2, 3]), mean([10])]) != mean([1, 2, 3, 10])


def test_a_reducer_that_fails_at_the_end_fails_the_job() -> None:
    job = over([[1], [2]]).map(pick).reduce(operator_add).start(chunk_size=1)
    run_jobs()
    job.refresh_from_db()

    assert job.status == "failed"
    assert job.error.startswith("reduce: TypeError")


@pytest.mark.parametrize(
    ("reducer", "said"),
    [
        ("gone.task", "reduce: UnknownTask: This deployment has no task called gone.task. Deploy it."),
        (f"{__name__}:leave", "reduce: SystemExit: 3"),
    ],
)
def test_a_reducer_that_is_gone_or_leaves_at_the_end_fails_the_job(reducer: str, said: str, sent: Sent) -> None:
    job = over([1, 2]).map(pick).reduce(add).start(chunk_size=1)
    work(job.pk, 0)
    taken = claiming.claim(job.pk, 1)
    assert taken is not None
    Job.objects.update(reducer=reducer)
    assert finish.complete(taken, Outcome([2], [], 0.1), [2])
    job.refresh_from_db()

    assert (job.status, job.succeeded) == ("failed", 2)
    assert job.error == said


def leave(values: list[Any]) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_a_reducer_that_kills_its_process_fails_the_job(chunk_size: int, sent: Sent) -> None:
    """Its first victim is a worker; then it runs in a process of its own."""
    job = over([1, 2]).map(pick).reduce(kill).start(chunk_size=chunk_size)
    Chunk.objects.bulk_create(
        Chunk(job=job, first=first, count=chunk_size, careful=True, deaths=1) for first in range(0, 2, chunk_size)
    )
    Job.objects.update(claimed=2)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, list(job.results())) == ("failed", [1, 2])
    assert job.error.startswith("reduce: ItemFailed: ProcessDied: ")
    assert job.error.endswith("killed by signal 9, SIGKILL")


def kill(values: list[Any]) -> Any:
    if len(values) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return values[0]


def operator_add(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else operator.add(values[0], {})


def test_save_writes_each_result_once() -> None:
    job = over(range(100)).map(pick).save(store).start(chunk_size=9)
    run_jobs()

    assert sorted(Score.objects.values_list("value", flat=True)) == list(range(100))
    assert Job.objects.get(pk=job.pk).status == "succeeded"


def test_what_save_does_not_take_is_found_and_fails_alone() -> None:
    job = over(range(80, 100)).map(pick).save(store_small).start(chunk_size=20)
    run_jobs()
    job.refresh_from_db()

    assert sorted(Score.objects.values_list("value", flat=True)) == list(range(80, 91))
    assert (job.succeeded, job.failed) == (11, 9)
    failures = list(job.failures())
    assert {it["error"] for it in failures} == {"save: OverflowError: too large to store"}
    assert all("in store_small\n    raise OverflowError" in it["traceback"] for it in failures)


def test_a_wrong_statement_in_save_is_the_fault_of_save() -> None:
    job = over(range(3)).map(pick).save(store_wrongly).start(chunk_size=3)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.failed) == ("failed", 3)
    assert "no_such_table" in next(job.failures())["error"]


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_database_that_is_away_in_save_is_nobody_s_fault(error: type[Exception], claimed: claiming.Claim) -> None:
    Job.objects.update(saver=f"{__name__}:store_later")
    claimed.job.refresh_from_db()
    failing.append(error("the connection is closed"))
    with pytest.raises(error, match="the connection is closed"):
        finish.complete(claimed, outcome_of(claimed), claimed.items())
    assert finish.complete(claimed, outcome_of(claimed), claimed.items())
    claimed.job.refresh_from_db()
    assert (claimed.job.succeeded, claimed.job.failed) == (8, 0)


failing: list[Exception] = []


def store_later(results: list[int]) -> None:
    if failing:
        raise failing.pop()


def store_wrongly(results: list[int]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO no_such_table VALUES (1)")


# --- Callbacks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "called"), [([1, 2], ["done", "well"]), ([1, "raise"], ["badly", "done"])])
def test_callbacks_start_once_with_the_id_of_the_job(sent: Sent, items: list[Any], called: list[str]) -> None:
    job = over(items).map(pick).start(on_success=note.s("well"), on_failure=note.s("badly"), on_complete=note.s("done"))
    run_jobs()
    finish.finish_if_done(job.pk)

    messages = [message for message in sent() if message.task != WORK]
    assert sorted(message.args[1] for message in messages) == called
    assert {message.args[0] for message in messages} == {job.pk}


@pytest.mark.parametrize(
    ("signature", "sent_as"),
    [
        (note.s("mine").set(queue="io", priority=9), ("io", note.name, 9)),
        (chain(note.s(), note.si(2)), ("cpu", note.name, 5)),
    ],
)
def test_a_callback_is_any_signature_with_its_options(
    sent: Sent, signature: Any, sent_as: tuple[str, str, int]
) -> None:
    job = over(range(2)).map(pick).start(on_complete=signature)
    run_jobs()

    (message,) = [message for message in sent() if message.task != WORK]
    assert (message.queue, message.task, message.priority) == sent_as
    assert message.args[0] == job.pk


def test_a_callback_that_goes_without_the_job_does_not_get_its_id(sent: Sent) -> None:
    over(range(2)).map(pick).start(on_complete=note.si(7))
    run_jobs()

    assert [message.args for message in sent() if message.task != WORK] == [[7]]


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("on_success", {"task": "gone.task"}, "on_success: UnknownTask: This deployment has no task called gone.task."),
        ("on_complete", {"args": [2, 3]}, "on_complete: TypeError: "),
    ],
)
def test_a_callback_that_is_gone_or_refused_is_said_and_the_results_are_kept(
    sent: Sent, kind: str, changed: dict[str, Any], said: str
) -> None:
    job = over(range(2)).map(pick).start(on_success=note.s(), on_complete=increment_value.s())
    job.callbacks[kind] |= changed  # another version of the code was deployed after the start
    job.save(update_fields=["callbacks"])
    run_jobs()
    job.refresh_from_db()

    assert (job.status, list(job.results())) == ("succeeded", [0, 1])
    assert job.error.startswith(said)


def test_a_message_that_cannot_be_sent_keeps_no_other_callback_from_being_sent(sent: Sent) -> None:
    nowhere = note.s("first").set(queue="nowhere")
    job = over(range(2)).map(pick).start(on_success=nowhere, on_complete=note.s("last"))
    run_jobs()

    assert [message.args for message in sent() if message.task != WORK] == [[job.pk, "last"]]


def test_a_doorbell_that_comes_late_changes_nothing(sent: Sent) -> None:
    job = over(range(2)).map(double).start()
    run_jobs()
    with CaptureQueriesContext(connection) as queries:
        work(job.pk, 0)
    assert not [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]
    job.delete()
    work(job.pk, 0)

    assert not Job.objects.exists()


def test_an_empty_source_succeeds_at_once(sent: Sent) -> None:
    job = over([]).map(pick).reduce(add).start(on_complete=note.s())

    assert (job.status, job.value) == ("succeeded", None)
    assert [message.task for message in sent()] == [note.name]


@shared_task
def start_child(item: int) -> int:
    return over(range(item)).map(double).start(name="child").pk


def test_a_job_started_by_an_item_is_a_child_of_its_job() -> None:
    parent = over([2, 3]).map(start_child).start()
    run_jobs()

    assert set(parent.children.values_list("pk", flat=True)) == set(parent.results())


# --- Doorbells and claims -------------------------------------------------------------------------------------------


def test_a_start_sends_one_message_and_each_claim_one_more(sent: Sent) -> None:
    job = over(range(1_000_000)).map(double).start("io", priority=7)
    assert [(m.queue, m.task, m.args, m.priority) for m in sent()] == [("io", WORK, [job.pk, 0], 7)]

    for _ in range(100):
        work(job.pk, 0)
    assert [message.args for message in sent()] == [[job.pk, 1]]
    assert job.chunks.count() == 1


def test_a_job_that_is_rolled_back_leaves_nothing(sent: Sent) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        over(range(5)).map(double).start()
        over([1, 2]).map(double).start()
        1 / 0  # noqa: B018

    assert not Job.objects.exists()
    assert sent() == []


@pytest.fixture
def claimed(sent: Sent) -> Iterator[claiming.Claim]:
    job = over(range(16)).map(double).start(chunk_size=8)
    taken = claiming.claim(job.pk, 0)
    assert taken is not None
    yield taken


def outcome_of(taken: claiming.Claim) -> Any:
    return Outcome([item * 2 for item in taken.items()], [], 0.1)


def test_the_late_write_of_an_expired_claim_is_refused(claimed: claiming.Claim) -> None:
    Chunk.objects.update(owner_until=timezone.now() - timedelta(seconds=1))
    sweep.sweep()
    again = claiming.claim(claimed.job.pk, 1)
    assert again is not None
    assert (again.chunk.pk, again.attempt, again.chunk.deaths) == (claimed.chunk.pk, 3, 1)

    assert not finish.complete(claimed, outcome_of(claimed), claimed.items())
    assert not claiming.renew(claimed)
    assert finish.complete(again, outcome_of(again), again.items())
    assert not finish.complete(again, outcome_of(again), again.items())
    run_jobs()
    claimed.job.refresh_from_db()
    assert (claimed.job.succeeded, list(claimed.job.results())) == (16, [item * 2 for item in range(16)])


def test_a_claim_of_a_process_that_is_gone_is_given_away_at_once(claimed: claiming.Claim) -> None:
    sweep.sweep()
    assert Chunk.objects.get(pk=claimed.chunk.pk).status == "running"
    Chunk.objects.update(owner=f"{machine()} 999999 1.00")
    sweep.sweep()
    assert Chunk.objects.get(pk=claimed.chunk.pk).status == "queued"
    Chunk.objects.update(status="running", owner="another-machine 1 1.00")
    sweep.sweep()
    assert Chunk.objects.get(pk=claimed.chunk.pk).status == "running"


def test_a_chunk_that_goes_on_killing_its_owners_is_cut_until_one_item_is_left(sent: Sent) -> None:
    job = over(range(8)).map(double).start(chunk_size=8)
    for _ in range(200):
        job.refresh_from_db()
        if job.finished:
            break
        taken = claiming.claim(job.pk, job.bell)
        if taken is None:
            sweep.sweep()
        elif 5 in taken.items() and taken.chunk.deaths < 6:
            Chunk.objects.filter(pk=taken.chunk.pk).update(owner=f"{machine()} 999999 1.00")
            sweep.sweep()
        else:
            failed = [Failed(0, "ProcessDied", "")] if 5 in taken.items() else []
            results = [None] if failed else [item * 2 for item in taken.items()]
            assert not failed or taken.chunk.count == 1
            finish.complete(taken, Outcome(results, failed, 0.1), taken.items())

    assert list(job.results(failed="!")) == [0, 2, 4, 6, 8, "!", 12, 14]


def test_an_item_whose_owners_died_again_and_again_is_given_up(sent: Sent) -> None:
    job = over([7]).map(double).start()
    claiming.claim(job.pk, 0)
    Chunk.objects.update(status="queued", deaths=6)
    Job.objects.update(idle=False)
    work(job.pk, 1)
    job.refresh_from_db()

    assert job.status == "failed"
    assert "the process died 6 times" in next(job.failures())["error"]


def test_retried_items_whose_owners_died_again_and_again_are_given_up(sent: Sent) -> None:
    job = over([1, "raise", "raise"]).map(pick).start(chunk_size=3)
    run_jobs()
    job.retry_failed()
    Chunk.objects.update(deaths=6)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.failed) == ("failed", 2)
    assert "the process died 6 times" in next(job.failures())["error"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
def test_the_sweeper_does_not_wait_for_a_chunk_that_is_just_being_written(claimed: claiming.Claim) -> None:
    Job.objects.update(saver=f"{__name__}:store_slowly")
    claimed.job.refresh_from_db()
    Chunk.objects.update(owner_until=timezone.now() - timedelta(seconds=1))
    ended: list[bool] = []

    def write() -> None:
        ended.append(finish.complete(claimed, outcome_of(claimed), claimed.items()))
        connection.close()

    other = threading.Thread(target=write)
    other.start()
    storing.wait(10)
    sweep.sweep()
    assert not ended
    may_end.set()
    other.join()
    assert ended == [True]


storing, may_end = threading.Event(), threading.Event()


def store_slowly(results: list[int]) -> None:
    storing.set()
    may_end.wait(10)


def test_the_sweeper_rings_for_a_job_nobody_rang_for(sent: Sent) -> None:
    job = over(range(5)).map(double).start()
    sent()
    sweep.sweep()
    assert sent() == []
    Job.objects.update(rung_at=timezone.now() - timedelta(seconds=3))
    sweep.sweep()
    assert [message.args for message in sent()] == [[job.pk, 0]]
    sweep.sweep()
    assert sent() == []
    Job.objects.update(idle=True)
    sweep.sweep()
    assert [message.args for message in sent()] == [[job.pk, 0]]


# --- Steering -------------------------------------------------------------------------------------------------------


def test_pause_holds_resume_goes_on_and_cancel_is_final(sent: Sent) -> None:
    job = over(range(30)).map(double).start(chunk_size=10)
    work(job.pk, 0)
    job.pause()
    assert run_jobs() == 0
    work(job.pk, 1)
    sweep.sweep()
    assert job.chunks.count() == 1

    job.resume()
    work(job.pk, 2)
    job.cancel()
    assert run_jobs() == 0
    work(job.pk, 3)
    job.refresh_from_db()
    assert (job.status, job.done, list(job.results())) == ("cancelled", 20, [item * 2 for item in range(20)])
    for action in (job.pause, job.resume, job.cancel, job.retry_failed):
        with pytest.raises(JobRefused):
            action()


def test_a_running_chunk_stops_between_items_when_its_job_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    job = over(range(500)).map(slow).start(chunk_size=500)

    def cancel() -> None:
        Job.objects.update(status="cancelled")
        connection.close()

    timer = threading.Timer(0.2, cancel)
    timer.start()
    started = time.monotonic()
    work(job.pk, job.bell)
    timer.join()

    assert time.monotonic() - started < 5
    assert 0 < job.chunks.get(status="succeeded").count < 250


# --- Sources that arrive --------------------------------------------------------------------------------------------


def test_a_source_that_breaks_leaves_what_arrived_and_can_be_extended() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise ConnectionError("the feed broke")

    with pytest.raises(ConnectionError):
        over(source()).map(double).start()
    job = Job.objects.get()
    run_jobs()
    job.refresh_from_db()
    assert (job.source_state, job.status, job.done) == ("interrupted", "running", 0) or job.done == 0

    job.extend(range(5, 8))
    run_jobs()
    job.refresh_from_db()
    assert job.status == "succeeded"
    with pytest.raises(JobRefused, match="complete"):
        job.extend([1])


def test_a_source_that_gives_no_sign_of_life_is_interrupted() -> None:
    job = over([1, 2]).map(double).start()
    Job.objects.update(source_state="arriving", source_seen_at=timezone.now() - timedelta(seconds=14))
    sweep.sweep()
    job.refresh_from_db()
    assert job.source_state == "arriving"
    Job.objects.update(source_seen_at=timezone.now() - timedelta(seconds=16))
    sweep.sweep()
    run_jobs()
    job.refresh_from_db()
    assert (job.source_state, job.done, job.status) == ("interrupted", 2, "running")

    job.extend([])
    run_jobs()
    job.refresh_from_db()
    assert job.status == "succeeded"


def test_an_item_that_is_not_json_is_refused_and_those_before_it_stay() -> None:
    with pytest.raises(NotJson, match="is a set"):
        over([1, 2, {3}]).map(double).start()

    job = Job.objects.get()
    assert (job.total, job.source_state) == (2, "interrupted")


# --- Refused at the call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: over("abc"), "not a str"),
        (lambda: over(5), "not a int"),  # type: ignore[arg-type]
        (lambda: over(range(3)).start(), "add .map"),
        (lambda: over(range(3)).map(len), "takes a task"),
        (lambda: over(range(3)).map(increment_value), "a ledger of their own"),
        (lambda: over(range(3)).map(plus, {1}), "must be JSON"),
        (lambda: over(range(3)).map(double).reduce(lambda values: 1), "at the top of a module"),
        (lambda: over(range(3)).map(double).save("store"), "at the top of a module"),
        (lambda: over(range(3)).map(double).start("nowhere"), "There are: serial, high, cpu, io, isolated"),
        (lambda: over(range(3)).map(double).start(chunk_size=0), "chunk_size goes from 1"),
        (lambda: over(range(3)).map(double).start(threads="4"), "threads is a number"),  # type: ignore[arg-type]
        (lambda: over(range(3)).map(double).start(priority=10), "priority goes from 0 to 9"),
        (lambda: over(range(3)).map(double).start(on_success=note), "takes a signature"),  # type: ignore[arg-type]
        (lambda: over(range(3)).map(double).start(on_failure=note.s(1, 2)), "with the job's id first"),
        (lambda: over(range(3)).map(double).start(on_failure=note.s({1})), "must be JSON"),
    ],
)
def test_what_is_wrong_is_refused_at_the_call(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        wrong()

    assert not Job.objects.exists()


def test_the_queue_is_the_first_task_s_own() -> None:
    assert over(["x"]).map(scrape_url).map(pick).start().queue == "io"
    assert over([1]).map(fibonacci).start().queue == "cpu"


def test_waiting_ends_with_the_job_or_the_timeout() -> None:
    job = over([1]).map(double).start()
    with pytest.raises(TimeoutError, match="has not finished within 0.01 s"):
        job.wait(0.01)
    run_jobs()
    assert job.wait(1, progress=True).status == "succeeded"


def test_a_failure_says_its_index_and_error() -> None:
    assert str(Failure(index=3, error="no")) == "item 3: no"
