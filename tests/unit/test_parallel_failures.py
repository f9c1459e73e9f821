"""Items that fail: each one alone, whatever it does, and it can be retried."""

import json
import os
import threading
import time
from typing import Any

import pytest
from celery import shared_task
from django.db import connection

from handbell import ItemFailed, Job, JobRefused, over
from handbell.parallel import complete, subprocess_executor
from handbell.parallel.executor import StopCondition
from handbell.parallel.subprocess_executor import SubprocessExecutor
from tests.jobs import concatenate, double, nap, pick, run_jobs

pytestmark = pytest.mark.django_db(transaction=True)


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


def test_the_worker_logs_how_many_items_failed_and_why_the_first_did(caplog: pytest.LogCaptureFixture) -> None:
    job = over([1, "raise", "exit"]).map(pick).start(chunk_size=3)
    run_jobs()

    (record,) = [it for it in caplog.records if it.name == "handbell.parallel.complete"]
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith(f"2 of 3 items of {job.name} (job {job.pk}) failed: ValueError: no good")
    assert 'raise ValueError("no good' in record.getMessage()


@pytest.mark.parametrize("threads", [1, 4])
def test_an_item_that_kills_its_process_or_never_returns_fails_alone(threads: int) -> None:
    items = [1, "die", 2, 3, "hang", 4, "die", 5, 6, 7, "raise"]
    job = over(items).map(pick).start(item_timeout=2, threads=threads, chunk_size=len(items))
    run_jobs()
    job.refresh_from_db()

    assert list(job.results(failed="!")) == [1, "!", 2, 3, "!", 4, "!", 5, 6, 7, "!"]
    errors = [it["error"] for it in job.failures()]
    assert "died: killed by signal 9, SIGKILL" in errors[0]
    assert errors[1] == "ItemTimedOut: the item took longer than 2 s"
    assert errors[3].startswith("ValueError")


def test_the_neighbour_of_an_item_that_hangs_is_not_to_blame() -> None:
    """It is running in another thread when their process is killed."""
    job = over([0.0, 60.0, 1.2, 1.2, 1.2]).map(nap).start(item_timeout=2, threads=2, chunk_size=5)
    run_jobs()

    assert list(job.results(failed="!")) == [0.0, "!", 1.2, 1.2, 1.2]


@shared_task
def leave_somebody_behind(item: int) -> int:
    """Starts a process that holds everything open for a while."""
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
    monkeypatch.setattr(complete, "MAX_FAILURES_KEPT", 7)
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

    def repaired(item: Any) -> str:
        ran.append(item)
        return "x"

    monkeypatch.setattr(pick, "run", repaired)
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


@shared_task
def leave(item: str) -> str:
    """Ends what runs it, as far as an item may."""
    if item == "interrupt":
        raise KeyboardInterrupt
    if item == "generator":
        raise GeneratorExit
    return item


@pytest.mark.parametrize("threads", [1, 3])
def test_an_item_that_ends_what_runs_it_fails_alone(threads: int) -> None:
    job = over(["a", "interrupt", "generator", "b"]).map(leave).start(threads=threads, chunk_size=4)
    run_jobs()
    job.refresh_from_db()

    assert list(job.results(failed="!")) == ["a", "!", "!", "b"]
    assert [it["error"].partition(":")[0] for it in job.failures()] == ["KeyboardInterrupt", "GeneratorExit"]


def test_a_subprocess_that_dies_before_it_begins_an_item_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_executor, "VAIN_START_PAUSE_SECONDS", 0.01)
    outcome = SubprocessExecutor([["gone.task", [], {}]], [1, 2], StopCondition()).run()

    said = "ProcessDied: the process died 3 times before it began an item: exit code 1"
    assert [it.error for it in outcome.failed] == [said, said]


def test_what_was_retried_and_never_ran_is_not_counted_twice() -> None:
    """The job had to stop once more before it came to these items."""
    job = over(["raise"] * 4).map(pick).start(chunk_size=2, max_failures=3)
    run_jobs()
    job.refresh_from_db()
    assert (job.status, job.failed) == ("failed", 4)
    job.retry_failed()
    Job.objects.filter(pk=job.pk).update(max_failures=0)
    run_jobs()
    job.refresh_from_db()
    assert (job.status, job.failed) == ("failed", 2)
    job.retry_failed()
    assert job.failed == 0
    Job.objects.filter(pk=job.pk).update(max_failures=None)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.failed, job.done) == ("failed", 4, 4)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="needs a database that two threads can use")
def test_of_two_who_retry_at_once_one_is_refused() -> None:
    job = over(["raise"] * 5).map(pick).start(chunk_size=1)
    run_jobs()
    said: list[str] = []

    def retry() -> None:
        try:
            Job.objects.get(pk=job.pk).retry_failed()
        except JobRefused as error:
            said.append(str(error))
        finally:
            connection.close()

    others = [threading.Thread(target=retry) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    job.refresh_from_db()

    assert (len(said), job.failed, job.status) == (3, 0, "running")
    run_jobs()
    job.refresh_from_db()
    assert (job.status, job.failed) == ("failed", 5)
