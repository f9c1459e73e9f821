"""`reduce`: results folded into one value, in order and in parts; what a faulty reducer does."""

import operator
import os
import signal
from typing import Any

import pytest
from django.db import connection

from handbell import Job, over
from handbell.common.claims import WORKER_ID
from handbell.models import Chunk
from handbell.parallel import finish
from handbell.parallel.claim import claim_chunk
from handbell.parallel.complete import complete_chunk
from handbell.parallel.executor import ChunkOutcome
from handbell.parallel.finish import finish_if_done
from handbell.parallel.recover import recover_chunks
from handbell.parallel.work import work
from tests.jobs import add, concatenate, pick, run_jobs
from tests.unit.conftest import Sent

pytestmark = pytest.mark.django_db(transaction=True)


def mean(numbers: list[float]) -> float:
    """Not associative."""
    return sum(numbers) / len(numbers)


def test_reduce_folds_in_order_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MAX_FOLDED_VALUES", 3)
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
    taken = claim_chunk(job.pk, 1, 1)
    assert taken is not None
    Job.objects.update(reducer=reducer)
    assert complete_chunk(taken, ChunkOutcome([2], [], 0.1), [2])
    finish_if_done(job.pk, in_subprocess=False)
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
        Chunk(job=job, first=first, count=chunk_size, run_in_subprocess=True, crash_count=1)
        for first in range(0, 2, chunk_size)
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


# --- Where and when it runs -------------------------------------------------------------------------------------------


def test_nothing_is_locked_while_results_are_reduced() -> None:
    in_transaction.clear()
    job = over(range(6)).map(pick).reduce(note_transaction).start(chunk_size=2)
    run_jobs()
    job.refresh_from_db()

    assert job.value == 15
    assert in_transaction == [False] * 4


in_transaction: list[bool] = []


def note_transaction(numbers: list[int]) -> int:
    in_transaction.append(connection.in_atomic_block)
    return sum(numbers)


def test_results_that_cannot_be_reduced_together_are_kept_apart_until_the_end() -> None:
    job = over([1, 2, "x", 3]).map(pick).reduce(add).start(chunk_size=4)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.succeeded) == ("failed", 3)
    assert list(job.results(failed="!")) == [1, 2, "!", 3]
    assert job.value == 6
    assert [it["error"].partition(":")[0] for it in job.failures()] == ["reduce"]


def test_values_are_folded_in_parts_of_so_many_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MAX_FOLDED_CHARACTERS", 10)
    sizes.clear()
    job = over(["abc"] * 12).map(pick).reduce(measured_concatenate).start(chunk_size=1)
    run_jobs()
    job.refresh_from_db()

    assert job.value == "abc" * 12
    assert max(sizes) == 2


sizes: list[int] = []


def measured_concatenate(texts: list[str]) -> str:
    sizes.append(len(texts))
    return concatenate(texts)


def test_one_process_at_a_time_ends_a_job(sent: Sent) -> None:
    job = over(range(3)).map(pick).reduce(add).start(chunk_size=3)
    taken = claim_chunk(job.pk, 0, 1)
    assert taken is not None
    assert complete_chunk(taken, ChunkOutcome([0, 1, 2], [], 0.1), [0, 1, 2])
    first = finish._claim_end(job.pk, 7)
    assert first is not None
    finish_if_done(job.pk)
    job.refresh_from_db()
    assert job.status == "running"

    recover_chunks(WORKER_ID)
    finish_if_done(job.pk)
    finish._write_end(first, 7)  # it comes too late
    job.refresh_from_db()
    assert (job.status, job.value, job.runs) == ("succeeded", 3, 1)
