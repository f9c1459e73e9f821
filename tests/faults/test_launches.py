"""Single sentences about what happens to launches on a bad day."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from handbell import Launch
from handbell.common import procfs
from handbell.isolated.doorbell import launches_doorbell
from handbell.isolated.orphans import FORK_SERVER_MODULE
from handbell.isolated.process_labels import label_of
from tests.launches import (
    bomb,
    hang,
    launch_nothing,
    note,
    run_nothing,
    stubborn,
    wait_until,
    wait_until_lost_and_run_another,
)
from tests.plain import lines
from tests.servers import wait_for
from tests.system import Running, System

WORKER = ("-Q", "isolated", "-c", "2", "--include=tests.launches")
SWEEPING = ("-Q", "isolated,serial", "-c", "2", "--include=tests.launches")
MAX_LATE_SECONDS = 3.0  # two cores that do other things, too; benchmarks/launch.py measures it


# --- What is called in the system -------------------------------------------------------------------------------------


def run_two_hundred_that_hang() -> float:
    """By how many seconds the slowest was ended too late."""
    hang.launch_many(range(100))
    stubborn.launch_many([()] * 100)
    wait_until("timed_out")
    return max(
        (row.finished_at - row.started_at).total_seconds() - row.timeout - row.grace * ("KILL" in row.reason)
        for row in Launch.objects.all()
        if row.finished_at is not None and row.started_at is not None
    )


def launch_bomb(grandchildren: int) -> None:
    bomb.apply_async((grandchildren,), time_limit=600)


def launch_note(path: str) -> None:
    note.launch(path, 600)


def launch_notes_and_ring_for_each(path: str) -> None:
    for _ in range(100):
        note.launch(path)
        launches_doorbell.send()
    wait_until("succeeded")


# --- What is left -----------------------------------------------------------------------------------------------------


def left(system: System) -> list[str]:
    """The command lines of what is left of this system's launches, fork servers and zombies included."""
    found = []
    for pid in procfs.all_pids():
        with suppress(psutil.Error):
            if label_of(pid) and psutil.Process(pid).environ().get("HANDBELL_DATA_DIR") == str(system.folder):
                found.append(procfs.command_line(pid))
    return found


def fork_servers_of(worker: Running) -> list[psutil.Process]:
    """The fork servers that the worker's children have started."""
    found = [one for child in worker.process.children() for one in child.children()]
    return [process for process in found if FORK_SERVER_MODULE in " ".join(process.cmdline())]


def start_bomb(system: System, worker: Running) -> psutil.Process:
    """Start twenty grandchildren, in sessions of their own; their fork server, once all of them run."""
    system.call(launch_bomb, 20)

    def busy() -> list[psutil.Process]:
        return [it for it in fork_servers_of(worker) if len(it.children(recursive=True)) > 20]

    wait_for(busy, "all of them run")
    return busy()[0]


# --- Tests ------------------------------------------------------------------------------------------------------------


def test_two_hundred_that_hang_are_all_dead_on_time(system: System) -> None:
    system.environment["HANDBELL_LAUNCH_CONCURRENCY"] = "200"
    with system.worker(*WORKER) as worker:
        late_seconds = system.call(run_two_hundred_that_hang)
        assert [it.children() for it in fork_servers_of(worker)] == [[], []]
    assert late_seconds < MAX_LATE_SECONDS


def test_kill_the_supervisor_and_its_launches_are_lost_and_gone_and_never_start_again(
    system: System, tmp_path: Path
) -> None:
    system.environment["HANDBELL_LEASE_SECONDS"] = "3"
    path = tmp_path / "lines"
    with system.worker(*SWEEPING) as worker:
        fork_server = start_bomb(system, worker)
        system.call(launch_note, str(path))
        wait_for(lambda: lines(path), "the other one has begun, too")
        fork_server.parent().kill()
        wait_for(lambda: not fork_server.is_running(), "the fork server has ended, too")
        wait_for(lambda: left(system) == [], "nothing is left of them")
        system.call(wait_until, "lost")
        assert system.call(run_nothing) == 1
    assert len(lines(path)) == 1


def test_kill_supervisor_and_fork_server_at_once_and_the_sweeper_ends_what_they_left(system: System) -> None:
    system.environment["HANDBELL_LEASE_SECONDS"] = "3"
    with system.worker(*SWEEPING) as worker:
        fork_server = start_bomb(system, worker)
        supervisor = fork_server.parent()
        for victim in (fork_server, supervisor):
            victim.suspend()  # so that neither can do anything about the other's death
        for victim in (fork_server, supervisor):
            victim.kill()
        wait_for(lambda: left(system) == [], "nothing is left")
        system.call(wait_until, "lost")


def test_kill_the_whole_worker_and_nothing_stays(system: System) -> None:
    with system.worker(*WORKER) as worker:
        start_bomb(system, worker)
        os.killpg(worker.process.pid, signal.SIGKILL)
        worker.popen.wait()
        wait_for(lambda: left(system) == [], "nothing is left")


@pytest.mark.core
def test_kill_the_fork_server_and_the_next_one_goes_on(system: System) -> None:
    with system.worker(*WORKER) as worker:
        start_bomb(system, worker).kill()
        reason = system.call(wait_until_lost_and_run_another)
        assert reason == "lost: the process that it was forked from has died, and it was killed"
        wait_for(lambda: len(left(system)) == 2, "only a new fork server is there, and the other process's")


def test_doubled_doorbells_start_nothing_twice(system: System, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with system.worker(*WORKER, "-n", "one@%h"), system.worker(*WORKER, "-n", "two@%h"):
        system.call(launch_notes_and_ring_for_each, str(path))
    assert len(lines(path)) == 100


def test_purge_the_broker_and_everything_is_run(system: System) -> None:
    system.call(launch_nothing, 50)
    assert system.manage("celery", "purge", "-f", "-Q", "isolated").returncode == 0
    with system.worker(*SWEEPING):
        system.call(wait_until, "succeeded")
