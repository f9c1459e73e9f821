"""What the table of queues promises of its workers: they grow and shrink, and replace processes that have grown."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from tasks_app.queues import CPU, HIGH, worker_options
from tests.servers import wait_for
from tests.system import Running, System

INCLUDE = "--include=tests.plain"
MEMORY_MB = 200


def ask(system: System, code: str) -> Any:
    return system.python(f"from tests.plain import *\nanswer = None\n{code}", 90)


def test_the_worker_of_cpu_grows_under_load_and_shrinks_when_idle(system: System) -> None:
    system.environment["AUTOSCALE_KEEPALIVE"] = "1"  # Celery's own, in seconds; 30 otherwise
    with system.worker(*worker_options(CPU, 4), INCLUDE) as worker:
        has_processes(worker, 1)
        ask(system, "group(take.s(1, value=number) for number in range(12)).delay()")
        has_processes(worker, 4)
        ask(system, 'until(lambda: TaskResult.objects.filter(status="SUCCESS").count() == 12)')
        has_processes(worker, 1)
        assert ask(system, "answer = add.delay(1, 1).get(timeout=20)") == 2


def has_processes(worker: Running, count: int) -> None:
    """The worker's pool comes to this size; if it does not, say what there was instead."""
    try:
        wait_for(lambda: len(pool_of(worker)) == count, f"{count} processes")
    except AssertionError as error:
        raise AssertionError(f"{error}; there are {pool_of(worker)}\n{worker.output()}") from None


def pool_of(worker: Running) -> list[psutil.Process]:
    """The processes that were forked: others that it may have started have a command line of their own."""
    found = []
    for child in worker.process.children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            found += [child] if child.cmdline() == worker.process.cmdline() else []
    return found


def test_a_process_that_has_grown_is_replaced_after_its_task(system: System, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    options = worker_options(replace(HIGH, memory_mb=MEMORY_MB), 1)
    with system.worker(*options, "-Q", "cpu", INCLUDE):
        grown, small = ask(
            system,
            f"""
big = [grow.delay({MEMORY_MB}, {str(path)!r}) for _ in range(3)]
small = [grow.delay(0, {str(path)!r}) for _ in range(5)]
answer = [[result.get(timeout=40) for result in results] for results in (big, small)]""",
        )
    assert len(set(grown)) == 3
    assert len(set(small)) == 1
    assert [int(line) for line in path.read_text().split()] == [*grown, *small]  # each ran once
