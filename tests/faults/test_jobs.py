"""Jobs under faults: whatever dies, freezes, hangs or is lost, every item is done once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django_celery_results.models import TaskResult

from handbell import Job, over, states
from handbell.models import Chunk
from tasks_app.models import Entry
from tests.faults.tasks import misbehave, wait_inside, weigh
from tests.jobs import hold
from tests.servers import wait_for
from tests.system import Running, System

LEASE_SECONDS = "3"
INCLUDE = "--include=tests.faults.tasks,tests.jobs"

# --- What runs inside the system ------------------------------------------------------------------------------------


def start_misbehaving_job(first: int, last: int, options: dict[str, Any]) -> None:
    over(range(first, last)).map(misbehave).start(**options)


def start_job_that_is_held(folder: str) -> None:
    over(range(4)).map(hold, folder).start(chunk_size=4)


def start_huge_job() -> int:
    return int(over(range(10**9)).map(weigh).start().pk)


def run_small_job() -> str:
    return over(range(2000)).map(weigh).start().wait(120).status


def run_job_over_queryset() -> tuple[str, str, bool]:
    Entry.objects.bulk_create(Entry(title="x") for _ in range(8_000))
    entries = Entry.objects.order_by("pk")
    job = over(entries).map(weigh).start().wait(120)
    keys = list(entries.values_list("pk", flat=True))
    return job.status, job.source_state, [result // 1000 for result in job.results()] == keys


def feed_slowly() -> None:
    """Starts a job whose source never ends."""

    def source() -> Iterator[int]:
        for item in range(10**9):
            time.sleep(0.01)
            yield item

    over(source()).map(weigh).start()


def extend(first: int, last: int) -> None:
    Job.objects.get().extend(range(first, last))


def wait_for_job_in_worker(job_id: int) -> None:
    wait_inside.apply_async((job_id,), queue="cpu")


def cancel(job_id: int) -> None:
    Job.objects.get(pk=job_id).cancel()


def status() -> str:
    return Job.objects.latest("id").status


def source() -> tuple[str, int, int]:
    """The state of the source, and how many items have arrived and succeeded."""
    job = Job.objects.last()
    return (job.source_state, job.total, job.succeeded) if job is not None else ("", 0, 0)


def results() -> list[Any]:
    return list(Job.objects.get().results())


def failures() -> list[tuple[int, str]]:
    return [(failure["index"], failure["error"]) for failure in Job.objects.get().failures()]


def plain_results() -> list[str]:
    return list(TaskResult.objects.exclude(result=None).values_list("result", flat=True))


def running_chunks(job_id: int) -> int:
    return Chunk.objects.filter(job=job_id, status=states.RUNNING).count()


# --- The tests ------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(system: System) -> System:
    system.environment["HANDBELL_LEASE_SECONDS"] = LEASE_SECONDS
    return system


def children(worker: Running) -> list[int]:
    return [child.pid for child in worker.process.children()]


def test_exactly_the_items_that_raise_kill_or_hang_fail(system: System) -> None:
    with system.worker("-Q", "cpu", "-c", "2", INCLUDE):
        system.call(start_misbehaving_job, 0, 3000, {"item_timeout": 1})
        wait_for(lambda: system.call(status) == "failed", "the job ends", 120)
    bad = {item for item in range(3000) if item % 1000 in {123, 456} or item % 100 == 99}
    assert system.call(results) == [None if item in bad else item for item in range(3000)]
    errors = dict(system.call(failures))
    assert set(errors) == bad
    assert "killed by signal 9" in errors[1123]
    assert "took longer than 1 s" in errors[2456]


@pytest.mark.core
def test_an_item_that_kills_its_worker_s_child_is_found(system: System) -> None:
    """No item_timeout: the item runs in the worker's own process at first."""
    with system.worker("-Q", "cpu", "-c", "2", INCLUDE):
        system.call(start_misbehaving_job, 100, 400, {"chunk_size": 50})
        wait_for(lambda: system.call(status) == "failed", "the job ends", 120)
    assert [index + 100 for index, _ in system.call(failures)] == [123, 199, 299, 399]


def test_the_late_write_of_a_frozen_worker_is_refused(system: System, tmp_path: Path) -> None:
    """It is stopped in the middle of a chunk for longer than its claim lasts."""
    with system.worker("-Q", "cpu", "-c", "1", "-n", "frozen@%h", INCLUDE) as frozen, ExitStack() as stack:
        system.call(start_job_that_is_held, str(tmp_path))
        wait_for((tmp_path / "begun").exists, "the chunk has begun")
        for pid in children(frozen):
            os.kill(pid, signal.SIGSTOP)
        (tmp_path / "go on").touch()
        stack.enter_context(system.worker("-Q", "cpu", "-c", "1", "-n", "second@%h", INCLUDE))
        wait_for(lambda: system.call(status) == "succeeded", "another worker does it", 120)
        for pid in children(frozen):
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: "were refused" in frozen.output(), "the late write is refused")
    assert system.call(source) == ["complete", 4, 4]
    assert system.call(results) == [0, 1, 2, 3]


def test_a_queryset_is_read_while_workers_write(sqlite_system: System) -> None:
    """In SQLite a connection that reads may not write any more once somebody else has written."""
    with sqlite_system.worker("-Q", "cpu", "-c", "2", INCLUDE):
        assert sqlite_system.call(run_job_over_queryset, timeout=150) == ["succeeded", "complete", True]


def test_a_producer_that_is_killed_leaves_what_arrived(system: System) -> None:
    producer = f"from {__name__} import feed_slowly; feed_slowly()"
    with system.worker("-Q", "cpu", "-c", "2", INCLUDE):
        with system.process("shell", "--no-imports", "-v0", "-c", producer) as running:
            wait_for(lambda: system.call(source)[2] > 0, "work goes on while items arrive")
            running.kill()
        wait_for(lambda: system.call(source)[0] == "interrupted", "the job says so")
        wait_for(lambda: (found := system.call(source))[1] == found[2], "what arrived is done")
        arrived = system.call(source)[1]
        system.call(extend, arrived, arrived + 1000)
        wait_for(lambda: system.call(status) == "succeeded", "the job ends", 120)
    assert system.call(results) == [item * 1000 + 610 for item in range(arrived + 1000)]


def test_a_small_job_does_not_wait_for_a_huge_one_and_nobody_waits_inside_a_worker(system: System) -> None:
    with system.worker("-Q", "cpu", "-c", "1", INCLUDE):
        huge = system.call(start_huge_job)
        wait_for(lambda: system.call(status) == "running", "the huge one has begun")
        assert system.call(run_small_job, timeout=150) == "succeeded"
        system.call(wait_for_job_in_worker, huge)
        wait_for(lambda: any("must not wait for a job" in text for text in system.call(plain_results)), "it is refused")
        system.call(cancel, huge)
        wait_for(lambda: system.call(running_chunks, huge) == 0, "no chunk runs any more")
