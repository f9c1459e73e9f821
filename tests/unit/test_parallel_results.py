"""Results of jobs: every item has its own, in order, whatever the source; read back in constant memory."""

import threading
import time
from typing import Any

import pytest
from celery import shared_task
from django.db import connection
from django.test.utils import CaptureQueriesContext

from handbell import JobRefused, over
from handbell.models import ItemFailure
from tasks_app.models import Entry
from tests.jobs import add, double, pick, plus, run_jobs, start_child

pytestmark = pytest.mark.django_db(transaction=True)
eight_at_a_time = threading.Barrier(8)


@shared_task
def in_thread(item: int) -> list[Any]:
    eight_at_a_time.wait(60)
    time.sleep(0.01 * (5 - item % 5))
    return [item, threading.get_ident()]


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


def test_blocks_of_large_items_are_short() -> None:
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


def test_a_job_started_by_an_item_is_a_child_of_its_job() -> None:
    parent = over([2, 3]).map(start_child).start()
    run_jobs()

    assert set(parent.children.values_list("pk", flat=True)) == set(parent.results())


def test_waiting_ends_with_the_job_or_the_timeout() -> None:
    job = over([1]).map(double).start()
    with pytest.raises(TimeoutError, match="has not finished within 0.01 s"):
        job.wait(0.01)
    run_jobs()
    assert job.wait(1, progress=True).status == "succeeded"


def test_a_failure_says_its_index_and_error() -> None:
    assert str(ItemFailure(index=3, error="no")) == "item 3: no"
