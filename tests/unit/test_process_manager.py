"""What `manage.py handbell up` does with its processes: starts them again, stops them in order, leaves none behind."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from handbell.celery.worker import stop_seconds
from handbell.management import process_manager
from handbell.management.process_manager import ProcessManager
from handbell.management.process_table import ManagedProcess
from handbell.queues import queue_names

STUCK = ["sh", "-c", "trap '' TERM; echo started; while :; do sleep 60; done"]
OBEDIENT = ["sh", "-c", "echo started; exec sleep 60"]
SHORT = ["sh", "-c", "exit 3"]
OUTLIVED = ["sh", "-c", "setsid sh -c 'echo $$ >> outliving; echo started; exec sleep 600' & wait"]


class Told:
    """What was said, and a wait for more of it."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def say(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.01)

    def count(self, text: str) -> int:
        return sum(text in line for _, line in self.lines)


Script = Callable[[ProcessManager, Told], Awaitable[None]]


def managed(name: str, command: list[str]) -> ManagedProcess:
    return ManagedProcess(name, command, "for tests")


def run(folder: Path, processes: list[ManagedProcess], script: Script) -> Told:
    """Run the processes until the script, which steers their manager, has had them stopped."""
    told = Told()

    async def main() -> None:
        manager = ProcessManager(processes, told.say, folder)
        running = asyncio.create_task(manager.run())
        await script(manager, told)
        await running

    asyncio.run(main())
    return told


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_manager, "stop_seconds", lambda queues: 0.1)
    monkeypatch.setattr(process_manager, "EXIT_SECONDS", 0.1)
    monkeypatch.setattr(process_manager, "BROKER_STOP_SECONDS", 0.1)


async def stop_once_both_have_started(manager: ProcessManager, told: Told) -> None:
    await told.until(lambda: told.count("started") == 2)
    manager.stop()


def left_running() -> list[psutil.Process]:
    """The stuck processes that are still there; one that is dead and not yet reaped has no command line any more."""
    children = psutil.Process().children()
    return [it for it in children if it.status() != psutil.STATUS_ZOMBIE and "trap" in " ".join(it.cmdline())]


def test_what_is_stuck_is_killed_work_first_and_then_the_broker(tmp_path: Path) -> None:
    told = run(tmp_path, [managed("broker", STUCK), managed("worker", STUCK)], stop_once_both_have_started)

    killed = [name for name, line in told.lines if line.startswith("was killed: it did not stop within ")]
    assert killed == ["worker", "broker"]
    assert not left_running()


def test_what_stops_when_it_is_told_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXIT_SECONDS", "BROKER_STOP_SECONDS"):
        monkeypatch.setattr(process_manager, name, 60)
    told = run(tmp_path, [managed("broker", OBEDIENT), managed("worker", OBEDIENT)], stop_once_both_have_started)

    assert told.count("was killed") == told.count("ended unexpectedly") == 0


def test_a_second_stop_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXIT_SECONDS", "BROKER_STOP_SECONDS"):
        monkeypatch.setattr(process_manager, name, 3600)

    async def stop_twice(manager: ProcessManager, told: Told) -> None:
        await stop_once_both_have_started(manager, told)
        manager.stop()

    told = run(tmp_path, [managed("broker", STUCK), managed("worker", STUCK)], stop_twice)
    assert told.count("was killed") == 2


def test_what_ends_is_named_and_started_again_after_a_growing_pause(tmp_path: Path) -> None:
    async def stop_when_it_was_said(manager: ProcessManager, told: Told) -> None:
        await told.until(lambda: told.count("ended unexpectedly") == 1)
        manager.stop()

    told = run(tmp_path, [managed("short", SHORT)], stop_when_it_was_said)
    (said,) = [line for name, line in told.lines if name == "short" and "unexpectedly" in line]
    assert re.fullmatch(r"ended unexpectedly \(exit code 3\) after \d s; starting it again in 2 s", said)


def test_a_process_is_started_again_and_stopped_though_one_that_it_started_holds_its_output_open(
    tmp_path: Path,
) -> None:
    async def kill_and_stop(manager: ProcessManager, told: Told) -> None:
        await told.until(lambda: told.count("started") == 1)
        manager.running["worker"].kill()
        await told.until(lambda: told.count("ended unexpectedly (killed by signal 9, SIGKILL)") == 1)
        await told.until(lambda: told.count("started") == 2)
        manager.stop()

    try:
        told = run(tmp_path, [managed("worker", OUTLIVED)], kill_and_stop)
    finally:
        outliving = [psutil.Process(int(pid)) for pid in (tmp_path / "outliving").read_text().split()]
        for process in outliving:
            process.kill()

    assert len(outliving) == 2
    assert told.count("was killed") == 0


def test_the_last_lines_of_a_process_are_said_before_its_end(tmp_path: Path) -> None:
    async def stop_when_it_was_said(manager: ProcessManager, told: Told) -> None:
        await told.until(lambda: told.count("ended unexpectedly") == 1)
        manager.stop()

    wordy = ["sh", "-c", "seq 20000; printf last"]
    told = run(tmp_path, [managed("wordy", wordy)], stop_when_it_was_said)

    assert [line for _, line in told.lines][19999:20001] == ["20000", "last"]


def test_everything_is_gone_within_ten_seconds_with_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    seconds = stop_seconds(queue_names()) + process_manager.EXIT_SECONDS

    assert seconds + process_manager.BROKER_STOP_SECONDS <= 8
