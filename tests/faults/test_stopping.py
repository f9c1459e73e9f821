"""Workers that are told to stop: what is short ends, what is long is given back, and nothing is lost or runs twice."""

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import shared_task

from handbell import Job, over
from handbell.models import Call, Owner
from tests.plain import (
    SECONDS,
    WORKER,
    call_take,
    calls_left,
    lines,
    long_at_first,
    result_of,
    state_of,
    take,
    wait_for_successes,
)
from tests.servers import wait_for
from tests.system import Running, System

ONE = (*WORKER, "-c", "1")
CALLS = 300


def stop(worker: Running) -> None:
    """TERM, and that everything is gone in time: what `up` would have to kill was not told in time."""
    members = worker.descendants()
    assert worker.terminate(10) == 0
    wait_for(lambda: not any(map(alive, members)), "its processes are gone, too")


def alive(process: psutil.Process) -> bool:
    return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE


def workers_registered() -> int:
    return Owner.objects.count()


def test_a_task_of_a_few_seconds_ends(system: System, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    with system.worker(*ONE) as worker:
        system.call(call_take, 2, str(path), "it", "it")
        wait_for(lambda: lines(path), "it has begun", SECONDS)
        stop(worker)
    assert lines(path) == ["began-it", "ended-it"]
    assert (system.call(state_of, "it"), system.call(calls_left), system.call(workers_registered)) == ("SUCCESS", 0, 0)


def call_one_that_is_long_at_first(path: str) -> None:
    long_at_first.apply_async((path,), task_id="it")


def claim_and_crashes() -> list[str | int]:
    call = Call.objects.get()
    return [call.claimed_by, call.crash_count]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_longer_one_is_given_back_and_runs_again(pool: str, system: System, tmp_path: Path) -> None:
    system.environment["HANDBELL_STOP_SECONDS"] = "1"
    path = tmp_path / "ran"
    with system.worker(*ONE, f"--pool={pool}", "-n", "first@%h") as worker:
        system.call(call_one_that_is_long_at_first, str(path))
        wait_for(lambda: lines(path), "it has begun", SECONDS)
        stop(worker)
        assert system.call(state_of, "it") == "PENDING"
        assert system.call(claim_and_crashes) == ["", 0]
        with system.worker(*ONE, "-n", "second@%h"):
            assert system.call(result_of, "it") == "done"
    assert len(lines(path)) == 2


def call_one_after_the_other(path: str) -> None:
    for number in range(CALLS):
        take.delay(0.05, path, number)


def test_replace_every_worker_while_calls_are_made(system: System, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    calls = f"from tests.faults.test_stopping import call_one_after_the_other as call; call({str(path)!r})"
    with system.worker(*WORKER, "-n", "one@%h") as one, system.worker(*WORKER, "-n", "two@%h") as two:
        with system.process("shell", "--no-imports", "-v0", "-c", calls):
            wait_for(lambda: len(lines(path)) > 20, "they work", SECONDS)
            with system.worker(*WORKER, "-n", "three@%h"):
                stop(one)
                with system.worker(*WORKER, "-n", "four@%h"):
                    stop(two)
                    system.call(wait_for_successes, CALLS)
        assert system.call(calls_left) == 0
    assert sorted(lines(path)) == sorted(f"{what}-{n}" for n in range(CALLS) for what in ("began", "ended"))


@shared_task
def note_and_rest(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("item\n")
    time.sleep(0.1)


def start_job(path: str) -> int:
    return over([path] * 200).map(note_and_rest).start("cpu", chunk_size=200).pk


def counts(job: int) -> list[int]:
    row = Job.objects.get(pk=job)
    return [row.succeeded, sum(row.chunks.values_list("crash_count", flat=True)), row.chunks.count()]


def job_result(job: int) -> list[Any]:
    row = Job.objects.get(pk=job).wait(SECONDS)
    return [row.status, row.succeeded]


def test_the_finished_items_of_a_chunk_are_kept_and_the_rest_runs_elsewhere(system: System, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    with system.worker("-Q", "cpu", "-c", "1", "--include=tests.faults.test_stopping", "-n", "first@%h") as worker:
        job = system.call(start_job, str(path))
        wait_for(lambda: len(lines(path)) > 3, "some items have run", SECONDS)
        stop(worker)
    done, crashes, chunks = system.call(counts, job)
    assert (done, crashes, chunks) == (len(lines(path)), 0, 2)
    with system.worker("-Q", "cpu", "-c", "1", "--include=tests.faults.test_stopping", "-n", "second@%h"):
        assert system.call(job_result, job) == ["succeeded", 200]
    assert len(lines(path)) == 200
