"""The sizes of chunks: they follow from how long items take and how large they and their results are."""

import itertools

import pytest
from celery import shared_task

from handbell import Job, over
from handbell.parallel import claim, complete
from handbell.parallel.work import work
from tests.jobs import double, run_jobs, slow

pytestmark = pytest.mark.django_db(transaction=True)


def test_chunks_grow_until_they_take_as_long_as_they_should_and_shrink_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claim, "MIN_CHUNK_SECONDS", 0.0001)
    monkeypatch.setattr("handbell.parallel.work.MAX_CHUNK_OVERRUN", 1000)  # however busy the machine is
    job = over(range(300_000)).map(double).start(chunk_seconds=0.02)
    run_jobs()

    sizes = list(job.chunks.order_by("first").values_list("count", flat=True))
    assert sizes[0] == 1
    assert all(after <= before * claim.MAX_CHUNK_GROWTH for before, after in itertools.pairwise(sizes))
    assert max(sizes) > 1000
    assert sizes[-1] < max(sizes)


def test_a_chunk_that_takes_too_long_gives_the_rest_back() -> None:
    """Its items were quick so far, and now they are slow."""
    job = over(range(50)).map(slow).start(chunk_seconds=0.05)
    Job.objects.update(seconds_per_item=1e-6, last_size=1000)
    work(job.pk, job.ring_token)

    chunk = job.chunks.get(status="succeeded")
    assert chunk.count < 15
    run_jobs()
    assert list(job.results()) == list(range(50))


def test_a_fixed_size_is_kept() -> None:
    job = over(range(25)).map(slow).start(chunk_size=10, chunk_seconds=0.001)
    run_jobs()

    assert list(job.chunks.order_by("first").values_list("count", flat=True)) == [10, 10, 5]


def test_chunks_of_large_results_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete, "MAX_CHUNK_CHARACTERS", 100_000)
    job = over(range(300)).map(inflate).start()
    run_jobs()

    sizes = [len(results or "") for results in job.chunks.values_list("results", flat=True)]
    assert max(sizes) < 200_000
    assert len(list(job.results())) == 300


@shared_task
def inflate(item: int) -> str:
    return "x" * 10_000


def test_chunks_of_large_items_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "MAX_CHUNK_BLOCKS", 2)
    job = over("x" * 100_000 for _ in range(300)).map(length).start()
    Job.objects.update(seconds_per_item=1e-9, last_size=1000)
    assert run_jobs() > 5

    second = job.blocks.order_by("first")[1:2].get().first
    assert max(job.chunks.values_list("count", flat=True)) <= second + 100
    assert list(job.results()) == [100_000] * 300


@shared_task
def length(item: str) -> int:
    return len(item)
