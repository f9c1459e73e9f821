"""Single sentences about what happens to launches on a bad day."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from tasks_app.isolated import processes
from tests.servers import wait_for
from tests.system import Running, System

WORKER = ("-Q", "isolated", "-c", "2", "--include=tests.launches")
SWEEPING = ("-Q", "isolated,serial", "-c", "2", "--include=tests.launches")


def script(system: System, code: str) -> object:
    return system.python(f"from tests.launches import *\nanswer = None\n{code}")


def left(system: System) -> list[str]:
    """What is left of this system's launches, forkers included, dead or alive."""
    found = []
    for pid in processes.everyone():
        with suppress(psutil.Error):
            if processes.mark_of(pid) and psutil.Process(pid).environ().get("VAR_DIR") == str(system.folder):
                found.append(processes.command(pid))
    return found


def forker_of(worker: Running) -> psutil.Process:
    def is_forker(process: psutil.Process) -> bool:
        return "isolated.forker" in " ".join(process.cmdline())

    (found,) = [one for child in worker.process.children() for one in child.children() if is_forker(one)]
    return found


def launch_a_bomb(system: System, worker: Running, more: str = "") -> psutil.Process:
    """Twenty grandchildren run, in sessions of their own; their forker."""
    script(system, f"bomb.apply_async((20,), time_limit=60)\n{more}")
    wait_for(lambda: len(worker.descendants()) >= 2 + 1 + 1 + 20, "all of them run")
    return forker_of(worker)


def test_two_hundred_that_hang_are_all_dead_on_time(system: System) -> None:
    system.environment["LAUNCH_CONCURRENCY"] = "200"
    with system.worker(*WORKER) as worker:
        late = script(
            system,
            """
hang.launch_many(range(100)), stubborn.launch_many([()] * 100)
wait_until("timed_out")
answer = max((row.finished_at - row.started_at).total_seconds() - row.timeout - row.grace * ("KILL" in row.reason)
             for row in Launch.objects.all())""",
        )
        assert forker_of(worker).children() == []
    assert isinstance(late, float)
    assert late < 1  # two cores that do other things, too; benchmarks/launch.py measures it


def test_kill_the_supervisor_and_its_launches_are_lost_and_gone_and_never_start_again(
    system: System, tmp_path: Path
) -> None:
    system.environment["LAUNCH_LEASE_SECONDS"] = "2"
    lines = tmp_path / "lines"
    with system.worker(*SWEEPING) as worker:
        forker = launch_a_bomb(system, worker, f"note.launch({str(lines)!r}, 60)")
        wait_for(lines.exists, "the other one has begun, too")
        forker.parent().kill()
        wait_for(lambda: not forker.is_running(), "the forker has gone, too")
        wait_for(lambda: left(system) == [], "nothing is left of them")
        script(system, 'wait_until("lost")\nassert nothing.delay(1).get(timeout=30) == 1')
    assert len(lines.read_text().split()) == 1


def test_kill_supervisor_and_forker_at_once_and_the_sweeper_ends_what_they_left(system: System) -> None:
    system.environment["LAUNCH_LEASE_SECONDS"] = "2"
    with system.worker(*SWEEPING) as worker:
        forker = launch_a_bomb(system, worker)
        supervisor = forker.parent()
        for victim in (forker, supervisor):
            victim.suspend()  # so that neither can do anything about the other's death
        for victim in (forker, supervisor):
            victim.kill()
        wait_for(lambda: left(system) == [], "nothing is left")
        script(system, 'wait_until("lost")')


def test_kill_the_whole_worker_and_nothing_stays(system: System) -> None:
    with system.worker(*WORKER) as worker:
        launch_a_bomb(system, worker)
        os.killpg(worker.process.pid, signal.SIGKILL)
        worker.popen.wait()
        wait_for(lambda: left(system) == [], "nothing is left")


def test_kill_the_forker_and_the_next_one_goes_on(system: System) -> None:
    with system.worker(*WORKER) as worker:
        launch_a_bomb(system, worker).kill()
        answer = script(
            system,
            """
wait_until("lost")
assert nothing.delay(1).get(timeout=30) == 1
answer = Launch.objects.get(status="lost").reason""",
        )
        assert answer == "lost: the process that it was forked from has died, and it was killed"
        wait_for(lambda: len(left(system)) == 1, "only a new forker is there")


def test_doubled_doorbells_start_nothing_twice(system: System, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    with system.worker(*WORKER, "-n", "one@%h"), system.worker(*WORKER, "-n", "two@%h"):
        script(
            system,
            f"""
from tasks_app.isolated import doorbell
for number in range(100):
    note.launch({str(lines)!r})
    doorbell.send()
wait_until("succeeded")""",
        )
    assert len(lines.read_text().split()) == 100


def test_purge_the_broker_and_everything_is_run(system: System) -> None:
    script(system, "nothing.launch_many(range(50))")
    assert system.manage("celery", "purge", "-f", "-Q", "isolated").returncode == 0
    with system.worker(*SWEEPING):
        script(system, 'wait_until("succeeded")')
