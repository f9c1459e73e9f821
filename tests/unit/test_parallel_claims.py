"""Doorbells and claims of jobs: one message at a time, late writes refused, crashed owners replaced."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from handbell import Job, over
from handbell.common.claims import WORKER_ID, new_claim_token
from handbell.models import Chunk
from handbell.parallel.claim import claim_chunk
from handbell.parallel.complete import complete_chunk
from handbell.parallel.doorbell import WORK
from handbell.parallel.executor import ChunkOutcome, FailedItem
from handbell.parallel.recover import recover_chunks
from handbell.parallel.sweep import sweep_jobs
from handbell.parallel.work import work
from tests.jobs import claim_first_chunk, double, outcome_of, pick, run_jobs
from tests.unit.conftest import Sent

pytestmark = pytest.mark.django_db(transaction=True)


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


def test_a_doorbell_that_comes_late_changes_nothing(sent: Sent) -> None:
    job = over(range(2)).map(double).start()
    run_jobs()
    with CaptureQueriesContext(connection) as queries:
        work(job.pk, 0)
    assert not [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]
    job.delete()
    work(job.pk, 0)

    assert not Job.objects.exists()


def test_the_late_write_of_an_expired_claim_is_refused(sent: Sent) -> None:
    claimed = claim_first_chunk()
    recover_chunks(WORKER_ID)
    second = claim_chunk(claimed.job.pk, 1, 2)
    assert second is not None
    assert (second.chunk.pk, second.chunk.attempts, second.chunk.crash_count) == (claimed.chunk.pk, 2, 1)

    assert not complete_chunk(claimed, outcome_of(claimed), claimed.items())
    assert not claimed.holds()
    assert complete_chunk(second, outcome_of(second), second.items())
    assert not complete_chunk(second, outcome_of(second), second.items())
    run_jobs()
    claimed.job.refresh_from_db()
    assert (claimed.job.succeeded, list(Job.objects.get().results())) == (16, [item * 2 for item in range(16)])


def test_a_chunk_that_goes_on_killing_its_owners_is_cut_until_one_item_is_left(sent: Sent) -> None:
    job = over(range(8)).map(double).start(chunk_size=8)
    for _ in range(200):
        job.refresh_from_db()
        if job.finished:
            break
        taken = claim_chunk(job.pk, job.ring_token, new_claim_token())
        if taken is None:
            sweep_jobs()
        elif 5 in taken.items() and taken.chunk.crash_count < 6:
            recover_chunks(WORKER_ID)
        else:
            failed = [FailedItem(0, "ProcessDied", "")] if 5 in taken.items() else []
            results = [None] if failed else [item * 2 for item in taken.items()]
            assert not failed or taken.chunk.count == 1
            complete_chunk(taken, ChunkOutcome(results, failed, 0.1), taken.items())

    assert list(job.results(failed="!")) == [0, 2, 4, 6, 8, "!", 12, 14]


def test_an_item_whose_owners_died_again_and_again_is_given_up(sent: Sent) -> None:
    job = over([7]).map(double).start()
    claim_chunk(job.pk, 0, 1)
    Chunk.objects.update(status="queued", crash_count=6)
    Job.objects.update(no_ring_pending=False)
    work(job.pk, 1)
    job.refresh_from_db()

    assert job.status == "failed"
    assert "the process died 6 times" in next(job.failures())["error"]


def test_retried_items_whose_owners_died_again_and_again_are_given_up(sent: Sent) -> None:
    job = over([1, "raise", "raise"]).map(pick).start(chunk_size=3)
    run_jobs()
    job.retry_failed()
    Chunk.objects.update(crash_count=6)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.failed) == ("failed", 2)
    assert "the process died 6 times" in next(job.failures())["error"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
def test_recovery_does_not_wait_for_a_chunk_that_is_just_being_written(sent: Sent) -> None:
    claimed = claim_first_chunk()
    Job.objects.update(saver=f"{__name__}:store_slowly")
    claimed.job.refresh_from_db()
    ended: list[bool] = []

    def write() -> None:
        ended.append(complete_chunk(claimed, outcome_of(claimed), claimed.items()))
        connection.close()

    other = threading.Thread(target=write)
    other.start()
    storing.wait(10)
    recover_chunks(WORKER_ID)
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
    sweep_jobs()
    assert sent() == []
    Job.objects.update(rung_at=timezone.now() - timedelta(seconds=3))
    sweep_jobs()
    assert [message.args for message in sent()] == [[job.pk, 0]]
    sweep_jobs()
    assert sent() == []
    Job.objects.update(no_ring_pending=True)
    sweep_jobs()
    assert [message.args for message in sent()] == [[job.pk, 0]]
