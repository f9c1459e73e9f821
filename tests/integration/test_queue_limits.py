"""What the table of queues promises of its workers: they grow and shrink, and replace processes that have grown."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from handbell.queues import worker_options
from tasks_app.queues import CPU, HIGH
from tests.plain import SECONDS, call_take_many, grow, lines, sum_of, wait_for_successes
from tests.servers import wait_for
from tests.system import Running, System

INCLUDE = "--include=tests.plain"
MEMORY_MB = 200


def test_the_worker_of_cpu_grows_under_load_and_shrinks_when_idle(system: System) -> None:
    # Celery's own setting, in seconds; 30 otherwise. Longer than a process takes to end: billiard's `shrink` takes one
    # that is about to end for one more that it may end, and one too many stays.
    system.environment["AUTOSCALE_KEEPALIVE"] = "5"
    with system.worker(*worker_options(replace(CPU, concurrency=4)), INCLUDE) as worker:
        has_processes(worker, 1)
        system.call(call_take_many, [1] * 12)
        has_processes(worker, 4)
        system.call(wait_for_successes, 12)
        has_processes(worker, 1)
        assert system.call(sum_of, 1, 1) == 2


def has_processes(worker: Running, count: int) -> None:
    """The worker's pool comes to this size; if it does not, say what there was instead."""
    try:
        wait_for(lambda: len(pool_of(worker)) == count, f"{count} processes", SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}; there are {pool_of(worker)}\n{worker.output()}") from None


def pool_of(worker: Running) -> list[psutil.Process]:
    """The processes that were forked: others that it may have started have a command line of their own."""
    found = []
    for child in worker.process.children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            found += [child] if child.cmdline() == worker.process.cmdline() else []
    return found


def grow_and_stay_small(path: str) -> list[list[int]]:
    big = [grow.delay(MEMORY_MB, path) for _ in range(3)]
    small = [grow.delay(0, path) for _ in range(5)]
    return [[result.get(timeout=SECONDS) for result in results] for results in (big, small)]


def test_a_process_that_has_grown_is_replaced_after_its_task(system: System, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    options = worker_options(replace(HIGH, concurrency=1, memory_mb=MEMORY_MB))
    with system.worker(*options, "-Q", "cpu", INCLUDE):
        grown, small = system.call(grow_and_stay_small, str(path))
    assert len(set(grown)) == 3
    assert len(set(small)) == 1
    assert [int(line) for line in lines(path)] == [*grown, *small]  # each ran once
