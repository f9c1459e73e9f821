"""Steering jobs, and sources that arrive slowly, break or go silent."""

import time
from collections.abc import Iterator

import pytest
from celery import shared_task
from django.db.models import F

from handbell import Job, JobRefused, NotJson, over
from handbell.common.leases import SilenceWatch
from handbell.models import Owner
from handbell.parallel import sweep
from handbell.parallel.sweep import sweep_jobs
from handbell.parallel.work import work
from tests.jobs import double, pick, run_jobs
from tests.unit.conftest import Sent

pytestmark = pytest.mark.django_db(transaction=True)


def test_pause_holds_resume_goes_on_and_cancel_is_final(sent: Sent) -> None:
    job = over(range(30)).map(double).start(chunk_size=10)
    work(job.pk, 0)
    job.pause()
    assert run_jobs() == 0
    work(job.pk, 1)
    sweep_jobs()
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


@shared_task
def cancel_at_third(item: int) -> int:
    if item == 3:
        Job.objects.update(status="cancelled")
    time.sleep(0.02)
    return item


def test_a_running_chunk_stops_between_items_when_its_job_is_cancelled() -> None:
    job = over(range(500)).map(cancel_at_third).start(chunk_size=500)
    work(job.pk, job.ring_token)

    assert 3 < job.chunks.get(status="succeeded").count < 500


def test_a_source_that_breaks_leaves_what_arrived_and_can_be_extended() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise ConnectionError("the feed broke")

    with pytest.raises(ConnectionError):
        over(source()).map(double).start()
    job = Job.objects.get()
    run_jobs()
    job.refresh_from_db()
    assert (job.source_state, job.status, job.done) == ("interrupted", "running", 5)

    job.extend(range(5, 8))
    run_jobs()
    job.refresh_from_db()
    assert job.status == "succeeded"
    with pytest.raises(JobRefused, match="complete"):
        job.extend([1])


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_source_that_gives_no_sign_of_life_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(sweep._Sources, "watch", SilenceWatch(clock))
    job = over([1, 2]).map(double).start()
    Job.objects.update(source_state="arriving", source_token=1)
    for _ in range(8):  # two seconds each, as far as the sweeper knows
        sweep_jobs()
        clock.seconds += 2
    job.refresh_from_db()
    assert job.source_state == "arriving"
    Job.objects.update(source_beats=F("source_beats") + 1)
    for _ in range(8):
        sweep_jobs()
        job.refresh_from_db()
        assert job.source_state == "arriving"
        clock.seconds += 2
    sweep_jobs()
    run_jobs()
    job.refresh_from_db()
    assert (job.source_state, job.done, job.status) == ("interrupted", 2, "running")

    job.extend([])
    run_jobs()
    job.refresh_from_db()
    assert job.status == "succeeded"


def test_an_item_that_is_not_json_is_refused_and_those_before_it_stay() -> None:
    with pytest.raises(NotJson, match=r"Items such as \{3\}, a set, must be JSON"):
        over([1, 2, {3}]).map(pick).start()

    job = Job.objects.get()
    assert (job.total, job.source_state) == (2, "interrupted")


def test_a_source_is_read_by_one_at_a_time() -> None:
    def second_reader() -> Iterator[int]:
        yield 1
        with pytest.raises(JobRefused, match="somebody else reads it"):
            Job.objects.get().extend([7])
        yield 2

    job = over(second_reader()).map(double).start()
    run_jobs()
    job.refresh_from_db()

    assert (job.status, list(job.results())) == ("succeeded", [2, 4])


def test_whoever_was_taken_for_silent_writes_no_more_items() -> None:
    def paused() -> Iterator[int]:
        yield from range(150)  # more than the first block has
        Job.objects.update(source_state="interrupted", source_token=None)
        Job.objects.get().extend(["the other's"])
        yield 1000

    with pytest.raises(JobRefused, match="was silent for too long"):
        over(paused()).map(pick).start()
    job = Job.objects.get()
    run_jobs()
    job.refresh_from_db()

    assert list(job.results())[-1] == "the other's"
    assert (job.status, job.source_state) == ("succeeded", "complete")


def test_a_job_says_why_it_does_not_go_on() -> None:
    job = over(range(3)).map(double).start("io")
    assert job.problem == "No worker takes the queue io. `manage.py celery worker -Q io` is one."
    Owner.objects.create(pk="a-worker", kind=Owner.WORKER, name="w", queues=["cpu", "io"])
    assert job.problem == ""
    Job.objects.update(source_state="interrupted", claimed=3, succeeded=3)
    job.refresh_from_db()
    assert job.problem == "Its source was interrupted after 3 items. Go on with job.extend(items), or cancel it."
    job.pause()
    assert job.problem == ""
