"""How workloads become tasks, how their progress is counted, and that a wrong outcome is called wrong."""

import json
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
from celery import chain, chord, group
from django.db import connections
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import TaskResult

from handbell import Job, states
from handbell.models import Chunk, Launch, Operation
from handbell.testing import run_jobs
from tasks_app import tasks
from tasks_app.models import Entry, Run, Score
from tasks_app.workloads import WORKLOADS, Progress, Verdict
from tasks_app.workloads.base import batched, ids_of, in_threads, in_words
from tasks_app.workloads.fibonacci import numbers_up_to
from tasks_app.workloads.launches import MAX_LATE_SECONDS
from tasks_app.workloads.periodic import NAME
from tests.unit.conftest import Message

Sent = Callable[[], list[Message]]


# --- Splitting, sending and collecting ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "size", "parts"),
    [(0, 3, []), (1, 3, [1]), (3, 3, [3]), (4, 3, [3, 1]), (6, 3, [3, 3]), (5, 1, [1] * 5)],
)
def test_a_list_is_cut_into_parts_and_nothing_is_lost(number: int, size: int, parts: list[int]) -> None:
    found = list(batched(range(number), size))

    assert [len(part) for part in found] == parts
    assert [item for part in found for item in part] == list(range(number))


def test_producers_run_at_the_same_time_and_their_ids_keep_their_order() -> None:
    together = threading.Barrier(5)

    def send(index: int) -> list[str]:
        together.wait(10)
        return [f"{index}a", f"{index}b"]

    assert in_threads(5, send) == ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b"]
    assert in_threads(0, send) == []


def test_what_a_producer_raises_is_raised_in_the_caller() -> None:
    def send(index: int) -> list[str]:
        if index == 3:
            raise ConnectionError("the broker is gone")
        return [str(index)]

    with pytest.raises(ConnectionError, match="the broker is gone"):
        in_threads(5, send)


@pytest.mark.django_db
def test_a_producers_database_connection_ends_with_it_and_the_callers_does_not() -> None:
    closed: list[int] = []

    def send(index: int) -> list[str]:
        own = connections["default"]
        own.ensure_connection()
        close = own.close

        def note_and_close() -> None:
            closed.append(index)
            close()

        own.close = note_and_close  # type: ignore[method-assign]
        return []

    in_threads(3, send)
    assert sorted(closed) == [0, 1, 2]
    assert connections["default"].connection is not None


def test_the_ids_of_a_group_are_its_members() -> None:
    signatures = [tasks.score.s(number).set(task_id=str(number)) for number in range(3)]

    assert ids_of(group(signatures).freeze()) == ["0", "1", "2"]


def test_the_ids_of_a_chain_are_all_its_links_in_order() -> None:
    links = chain(tasks.scrape_url.s("u").set(task_id="first"), tasks.find_frequency.s(["a"]).set(task_id="second"))

    assert ids_of(links.freeze()) == ["first", "second"]


def test_the_ids_of_a_chord_are_its_header_and_then_its_body() -> None:
    header = [
        chain(tasks.scrape_url.s("u").set(task_id=f"{n}a"), tasks.find_frequency.s(["a"]).set(task_id=f"{n}b"))
        for n in range(2)
    ]

    assert ids_of(chord(header, tasks.aggregate_results.s().set(task_id="body")).freeze()) == [
        *("0a", "0b", "1a", "1b", "body")
    ]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [({}, ""), ({"chunks": 5, "items": 1}, "5 chunks, 1 item"), ({"rows": 1234, "runs": 0}, "1,234 rows, 0 runs")],
)
def test_numbers_are_said_in_words(numbers: dict[str, int], words: str) -> None:
    assert in_words(numbers) == words


# --- Progress ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "finished", "queued", "done", "percent"),
    [
        (Progress(total=10), 0, 10, False, 0),
        (Progress(total=10, running=2, succeeded=3, failed=1, cancelled=1), 5, 3, False, 50),
        (Progress(total=3, succeeded=1), 1, 2, False, 33),
        (Progress(total=1000, succeeded=999), 999, 1, False, 99),
        (Progress(total=4, succeeded=2, failed=1, cancelled=1), 4, 0, True, 100),
        (Progress(total=0), 0, 0, True, 100),
    ],
)
def test_progress_adds_up(progress: Progress, finished: int, queued: int, done: bool, percent: int) -> None:
    assert (progress.finished, progress.queued, progress.done, progress.percent) == (finished, queued, done, percent)


@pytest.mark.django_db
def test_progress_counts_the_runs_own_tasks_by_state_and_the_missing_as_queued() -> None:
    run = make_run("identifiers", ["a", "b", "c", "d", "e", "f", "g"], count=1, chunk=1)
    for task_id, status in zip(
        "abcdefx", ("SUCCESS", "SUCCESS", "FAILURE", "REVOKED", "STARTED", "RETRY", "SUCCESS"), strict=True
    ):
        TaskResult.objects.create(task_id=task_id, status=status)

    progress = WORKLOADS["identifiers"].progress(run)
    assert progress == Progress(total=7, running=1, succeeded=2, failed=1, cancelled=1)
    assert (progress.queued, progress.done) == (2, False)


@pytest.mark.django_db
def test_the_results_of_a_large_run_are_read_in_slices_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks_app.workloads.base.MAX_QUERY_IDS", 3)
    ids = [f"t{number}" for number in range(10)]
    run = make_run("fibonacci", ids, n=1, count=10)
    TaskResult.objects.bulk_create(
        TaskResult(task_id=task_id, status="SUCCESS", result=str(number))
        for number, task_id in enumerate(reversed(ids))
    )

    assert WORKLOADS["fibonacci"].results(run) == list(range(9, -1, -1))
    assert WORKLOADS["fibonacci"].progress(run).succeeded == 10


# --- Verdicts ----------------------------------------------------------------------------------------------------


def make_run(slug: str, task_ids: list[str], **inputs: Any) -> Run:
    return Run.objects.create(workload=slug, task_ids=task_ids, inputs=inputs)


def add(task_id: str, result: Any, status: str = "SUCCESS", **columns: Any) -> TaskResult:
    row: TaskResult = TaskResult.objects.create(task_id=task_id, result=json.dumps(result), status=status, **columns)
    return row


def finished(slug: str, results: Iterable[Any], **inputs: Any) -> Run:
    """A run whose tasks have returned these results."""
    found = list(results)
    ids = [f"{slug}-{number}" for number in range(len(found))]
    for task_id, result in zip(ids, found, strict=True):
        add(task_id, result)
    return make_run(slug, ids, **inputs)


def verdict(run: Run) -> Verdict:
    workload = WORKLOADS[run.workload]
    assert workload.progress(run).done
    return workload.judge(run)


def serial(lane: list[int], queue: list[int], threads: int = 2, each: int = 2) -> Run:
    """A run of operations and of plain tasks that returned these values."""
    ids = [f"lane-{number}" for number in range(len(lane))]
    for task_id, value in zip(ids, lane, strict=True):
        Operation.objects.create(
            task_id=task_id,
            lane=0,
            key="k",
            task="t",
            arguments="[[],{}]",
            status=states.SUCCEEDED,
            result=json.dumps(value),
            enqueued_at=timezone.now(),
        )
    plain = finished("serial", queue)
    plain.task_ids = [*ids, *plain.task_ids]
    plain.inputs = {"name": "x", "threads": threads, "each": each}
    plain.save()
    return plain


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("lane", "queue", "ok"),
    [
        ([1, 2, 3, 4, 4], [1, 2, 3, 4, 4], True),
        ([4, 3, 2, 1, 4], [2, 1, 4, 3, 9], True),  # in any order; a later read may be of more
        ([1, 2, 2, 3, 3], [1, 2, 3, 4, 4], False),
        ([1, 2, 3, 4, 4], [1, 2, 2, 3, 3], False),
        ([1, 2, 3, 4, 3], [1, 2, 3, 4, 4], False),
        ([1, 2, 3, 4, 4], [1, 2, 3, 4, 0], False),
    ],
    ids=["right", "any order", "lost in the lane", "lost on the queue", "read too early in the lane", "on the queue"],
)
def test_a_lost_increment_or_an_early_read_is_wrong(lane: list[int], queue: list[int], ok: bool) -> None:
    found = verdict(serial(lane, queue))

    assert found.ok is ok, found.text
    assert f"of {4:,} increments counted" in found.text


@pytest.mark.django_db
def test_a_wrong_fibonacci_number_is_wrong() -> None:
    count, n = 23, 6
    order = [i for index in range(10) for i in range(index, count, 10)]
    right = [numbers_up_to(n)[i % (n + 1)] for i in order]

    assert verdict(finished("fibonacci", right, n=n, count=count)).ok
    TaskResult.objects.all().delete()
    found = verdict(finished("fibonacci", [*right[:-1], right[-1] + 1], n=n, count=count))
    assert (found.ok, found.text.partition(",")[0]) == (False, "22 of 23 right")


def test_the_expected_fibonacci_numbers_are_right() -> None:
    assert numbers_up_to(10) == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55]
    assert (numbers_up_to(0), numbers_up_to(1)) == ([0], [0, 1])


@pytest.mark.django_db
def test_the_workers_that_took_part_in_fibonacci_are_named_once() -> None:
    run = finished("fibonacci", [0, 1], n=1, count=2)
    for task_id, worker in zip(run.task_ids, ("w2@here", "w1@there"), strict=True):
        TaskResult.objects.filter(task_id=task_id).update(worker=worker)

    assert verdict(run).text == "2 of 2 right, by w1@, w2@"


STEPS = [tasks.collatz_steps(item) for item in range(1, 6)]
IDENTIFIERS: list[Any] = [*STEPS, STEPS[:2], STEPS[2:4], STEPS[4:], 2, 2, 1, {"chunks": 3, "items": 5}]


def changed(position: int, value: Any) -> list[Any]:
    return [*IDENTIFIERS[:position], value, *IDENTIFIERS[position + 1 :]]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("results", "missing", "ok"),
    [
        (IDENTIFIERS, None, True),
        (changed(0, 9), None, False),
        (changed(6, [0, 0]), None, False),
        (changed(11, {"chunks": 3, "items": 4}), None, False),
        (changed(11, {"chunks": 2, "items": 5}), None, False),
        (IDENTIFIERS, 3, False),
    ],
    ids=["right", "a wrong score", "a wrong chunk", "a wrong sum", "a wrong number of chunks", "a missing row"],
)
def test_a_wrong_score_summary_or_a_missing_row_is_wrong(results: list[Any], missing: int | None, ok: bool) -> None:
    Score.objects.bulk_create(Score(item=n + 1, value=STEPS[n]) for n in range(5) if n + 1 != missing)

    found = verdict(finished("identifiers", results, count=5, chunk=2))
    assert found.ok is ok, found.text


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("results", "ok"),
    [
        (["text", {"a": 1, "b": 0}, "text", {"a": 2, "b": 3}, {"a": 3, "b": 3}], True),
        (["text", {"a": 1, "b": 0}, "text", {"a": 2, "b": 3}, {"a": 3, "b": 4}], False),
        (["text", {"a": 0, "b": 0}, "text", {"a": 0, "b": 0}, {"a": 0, "b": 0}], False),
        (["text", {"a": 1, "b": 0}, {"a": 1, "b": 0}], False),
    ],
    ids=["right", "a wrong total", "nothing was found at all", "a missing page"],
)
def test_a_wrong_total_or_a_missing_page_is_wrong(results: list[Any], ok: bool) -> None:
    assert verdict(finished("words", results, urls=["u", "v"], words=["a", "b"])).ok is ok


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("words", "answer_ms", "ok"), [([5, 7], 3.5, True), ([5, 0], 3.5, False), ([5], 3.5, False), ([5, 7], 1000, False)]
)
def test_a_visit_that_measured_nothing_or_made_the_page_wait_is_wrong(
    words: list[int], answer_ms: float, ok: bool
) -> None:
    results = [{"words": number, "reading_seconds": 1} for number in words]

    assert verdict(finished("visits", results, visits=2, answer_ms=answer_ms)).ok is ok


def launched(*endings: tuple[str, str, float]) -> Run:
    """A run of launches that ended so: the state, the error and after how many seconds."""
    started = timezone.now() - timedelta(minutes=1)
    for number, (status, error, seconds) in enumerate(endings):
        Launch.objects.create(
            task_id=f"launch-{number}",
            task="tasks_app.tasks.call_stuck_partner",
            arguments="[[1],{}]",
            status=status,
            result=json.dumps({"exc_type": error, "exc_message": [2], "exc_module": "m"}),
            timeout=2,
            grace=0.1,
            memory_mb=512,
            enqueued_at=started,
            started_at=started,
            finished_at=started + timedelta(seconds=seconds),
        )
    return make_run("launches", [f"launch-{number}" for number in range(len(endings))], limit=8)


LATE = tasks.LAUNCH_SECONDS + MAX_LATE_SECONDS + 0.1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("ending", "ok"),
    [
        (("timed_out", "TimeLimitExceeded", 2.1), True),
        (("timed_out", "TimeLimitExceeded", LATE), False),
        (("failed", "DoesNotExist", 0.1), False),
        (("lost", "ProcessDied", 0.1), False),
        (("succeeded", "", 0.1), False),
        (("cancelled", "TaskRevokedError", 0.1), False),
    ],
    ids=["in time", "late", "another error", "lost", "it returned", "cancelled"],
)
def test_a_launch_that_ended_late_or_in_another_way_is_wrong(ending: tuple[str, str, float], ok: bool) -> None:
    found = verdict(launched(("timed_out", "TimeLimitExceeded", 2.05), ending))

    assert found.ok is ok
    assert found.text.startswith(f"{2 if ending[1] == 'TimeLimitExceeded' else 1} of 2 ended at the deadline of 2 s")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("is_gone", "is_nightly", "ok"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_a_periodic_deletion_that_did_not_happen_is_wrong(is_gone: bool, is_nightly: bool, ok: bool) -> None:
    PeriodicTask.objects.all().delete()
    every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.DAYS)
    PeriodicTask.objects.create(name=NAME, task=tasks.delete_old_results.name, interval=every)
    if is_nightly:
        PeriodicTask.objects.create(name="nightly", task=tasks.delete_old_results.name, interval=every)
    if not is_gone:
        add("old", 1)
    run = make_run("periodic", [], old="old")
    add("by beat", {"task results": 1, "runs": 0}, periodic_task_name=NAME)

    found = verdict(run)
    assert found.ok is ok
    assert "deleted 1 task result, 0 runs" in found.text


@pytest.mark.django_db
def test_a_periodic_run_is_about_the_first_start_after_it_and_no_other() -> None:
    add("before", {}, periodic_task_name=NAME)
    run = make_run("periodic", [], old="old")
    workload = WORKLOADS["periodic"]
    assert workload.progress(run) == Progress(total=1)

    add("first", {"runs": 3}, "SUCCESS", periodic_task_name=NAME)
    add("second", {}, "STARTED", periodic_task_name=NAME)
    add("third", {}, "SUCCESS", periodic_task_name=NAME)
    assert workload.progress(run) == Progress(total=1, succeeded=1)
    assert "deleted 3 runs" in workload.judge(run).text


WHOLE: dict[str, Callable[[], Run]] = {
    "serial": lambda: serial([1, 1], [1, 1], 1, 1),
    "fibonacci": lambda: finished("fibonacci", [0, 1], n=1, count=2),
    "identifiers": lambda: finished("identifiers", IDENTIFIERS, count=5, chunk=2),
    "words": lambda: finished("words", ["text", {"a": 1}, {"a": 1}], urls=["u"], words=["a"]),
    "visits": lambda: finished("visits", [{"words": 1}], visits=1, answer_ms=1),
    "launches": lambda: launched(("timed_out", "TimeLimitExceeded", 2.1)),
}


def test_every_workload_with_ids_is_covered_here() -> None:
    assert set(WHOLE) == set(WORKLOADS) - {"periodic", "jobs"}


@pytest.mark.django_db
@pytest.mark.parametrize("slug", WHOLE)
def test_a_run_with_a_failed_task_is_wrong_and_the_error_is_said(slug: str) -> None:
    run = WHOLE[slug]()
    error = json.dumps({"exc_type": "ZeroDivisionError", "exc_message": ["by", 0], "exc_module": "builtins"})
    TaskResult.objects.filter(task_id=run.task_ids[-1]).update(status="FAILURE", result=error, task_name="the.task")
    Launch.objects.filter(task_id=run.task_ids[-1]).update(status=states.FAILED, result=error)

    found = verdict(run)
    assert not found.ok
    if slug != "launches":  # all of which fail
        assert found.text == "the.task: ZeroDivisionError: by 0"


@pytest.mark.django_db
@pytest.mark.parametrize("slug", WHOLE)
@pytest.mark.parametrize("how_many", ["one", "all"])
def test_a_run_with_cancelled_tasks_is_wrong_and_can_be_judged(slug: str, how_many: str) -> None:
    run = WHOLE[slug]()
    ids = run.task_ids if how_many == "all" else run.task_ids[:1]
    TaskResult.objects.filter(task_id__in=ids).update(status="REVOKED", date_started=None)
    Operation.objects.filter(task_id__in=ids).update(status=states.CANCELLED, result=None)
    Launch.objects.filter(task_id__in=ids).update(status=states.CANCELLED, result=None)

    found = verdict(run)
    assert not found.ok
    if slug != "launches":
        assert found.text == f"{len(ids)} of {len(run.task_ids)} cancelled"


@pytest.mark.django_db
@pytest.mark.parametrize("status", ["FAILURE", "REVOKED"])
def test_a_periodic_deletion_that_failed_or_was_cancelled_is_wrong(status: str) -> None:
    run = make_run("periodic", [], old="old")
    error = {"exc_type": "OperationalError", "exc_message": ["locked"], "exc_module": "m"}
    add("by beat", error, status, periodic_task_name=NAME)

    assert not verdict(run).ok


# --- Starting ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_fibonacci_sends_as_many_tasks_as_asked_spread_over_the_queues(sent: Sent) -> None:
    run = WORKLOADS["fibonacci"].start({"n": 20, "count": 45})

    messages = {message.id: message for message in sent()}
    assert len(run.task_ids) == len(messages) == 45
    order = [i for index in range(10) for i in range(index, 45, 10)]
    assert [messages[task_id].args for task_id in run.task_ids] == [[i % 21] for i in order]
    assert {(m.queue, m.args[0] <= 15) for m in messages.values()} == {("high", True), ("cpu", False)}


@pytest.mark.django_db
def test_identifiers_are_sent_one_by_one_in_chunks_and_as_a_chord(sent: Sent) -> None:
    run = WORKLOADS["identifiers"].start({"count": 5, "chunk": 2})

    messages = {message.id: message for message in sent()}
    assert len(set(run.task_ids)) == 5 + 3 + 3 + 1
    assert set(run.task_ids) - set(messages) == {run.task_ids[-1]}  # the summary is sent when the chunks are there
    assert {message.queue for message in messages.values()} == {"cpu"}
    assert [messages[task_id].args for task_id in run.task_ids[8:11]] == [[[1, 2]], [[3, 4]], [[5]]]


@pytest.mark.django_db
def test_words_send_a_scrape_for_each_page_and_know_the_ids_of_what_follows(sent: Sent) -> None:
    run = WORKLOADS["words"].start({"urls": ["http://u/", "http://v/"], "words": ["a"]})

    messages = sent()
    assert [(message.queue, message.args) for message in messages] == [("io", ["http://u/"]), ("io", ["http://v/"])]
    assert len(set(run.task_ids)) == 2 + 2 + 1
    assert [message.id for message in messages] == [run.task_ids[0], run.task_ids[2]]


@pytest.mark.django_db
def test_visits_go_round_the_live_entries_and_launches_take_each_once(sent: Sent) -> None:
    Entry.objects.all().delete()
    live = [Entry.objects.create(title="t", body="b").pk for _ in range(2)]
    Entry.objects.create(title="t", body="b", live=False)

    run = WORKLOADS["visits"].start({"visits": 5})
    assert [message.args[0] for message in sent()] == [live[0], live[1], live[0], live[1], live[0]]
    assert run.inputs["answer_ms"] < 1000
    run = WORKLOADS["launches"].start({"limit": 5})
    rows = Launch.objects.filter(task_id__in=run.task_ids).order_by("id")
    assert [json.loads(row.arguments) for row in rows] == [[[pk], {}] for pk in live]
    assert len(WORKLOADS["launches"].start({"limit": 1}).task_ids) == 1


@pytest.mark.django_db
@pytest.mark.parametrize(("slug", "inputs"), [("visits", {"visits": 5}), ("launches", {"limit": 5})])
def test_without_a_live_entry_nothing_is_started_and_a_sentence_says_why(
    slug: str, inputs: dict[str, Any], sent: Sent
) -> None:
    Entry.objects.update(live=False)

    with pytest.raises(ValueError, match=r"There is no live entry to .* Add one in the admin, under Entries\."):
        WORKLOADS[slug].start(inputs)
    assert not Run.objects.exists()
    assert sent() == []


@pytest.mark.django_db
def test_periodic_leaves_something_to_delete_and_arms_beat_once_more_each_time(sent: Sent) -> None:
    runs = [WORKLOADS["periodic"].start({}) for _ in range(2)]

    entry = PeriodicTask.objects.get(name=NAME)
    assert (entry.one_off, entry.enabled, entry.total_run_count, entry.last_run_at) == (True, True, 0, None)
    assert sent() == []
    deleted = tasks.delete_old_results()
    assert deleted["task results"] == 2
    for run in runs:
        assert not TaskResult.objects.filter(task_id=run.inputs["old"]).exists()


# --- Jobs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def jobs_run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(tasks.scrape_url, "run", lambda url: f"the text of {url}, if any")
    run = WORKLOADS["jobs"].start({"n": 5, "count": 30, "ids": 10, "urls": ["a", "b"]})
    assert WORKLOADS["jobs"].progress(run) == Progress(total=42)
    run_jobs()
    return run


@pytest.mark.django_db
def test_a_run_is_judged_again_when_what_had_failed_is_retried_and_may_be_deleted_meanwhile(jobs_run: Run) -> None:
    workload, job = WORKLOADS["jobs"], Job.objects.filter(name="Word frequency")
    job.update(status="failed", failed=1, succeeded=1)
    progress, verdict = workload.outcome(jobs_run)
    assert (progress.failed, verdict and verdict.ok) == (1, False)

    job.update(status="running", failed=0)
    assert workload.outcome(jobs_run)[1] is None
    job.update(status="succeeded", succeeded=2)
    Run.objects.filter(pk=jobs_run.pk).delete()
    progress, verdict = workload.outcome(jobs_run)
    assert (progress.failed, verdict and verdict.ok) == (0, True)


@pytest.mark.django_db
def test_a_run_of_jobs_is_counted_and_judged(jobs_run: Run) -> None:
    workload = WORKLOADS["jobs"]

    assert workload.progress(jobs_run) == Progress(total=42, succeeded=42)
    assert workload.live(jobs_run)[-1] == ("Fibonacci numbers", "30")
    found = workload.judge(jobs_run)
    assert found.ok
    assert found.text.startswith("30 numbers right, 10 rows saved, 2 pages; ")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: Score.objects.filter(item=3).update(value=999), "30 numbers right"),
        (
            lambda: Chunk.objects.filter(job__name="Fibonacci numbers", first=0).update(results="[7]"),
            "29 numbers right",
        ),
        (lambda: Job.objects.filter(name="Word frequency").update(status="failed", failed=1, error="e"), "failed: e"),
        (lambda: Job.objects.filter(name="Word frequency").delete(), "has been deleted"),
    ],
    ids=["a row", "a number", "a failure", "a job"],
)
def test_a_run_of_jobs_that_went_wrong_is_wrong(jobs_run: Run, spoil: Callable[[], object], said: str) -> None:
    spoil()

    found = WORKLOADS["jobs"].judge(jobs_run)
    assert not found.ok
    assert said in found.text
