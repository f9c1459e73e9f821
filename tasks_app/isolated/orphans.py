"""What a forker could not end itself, because it was killed: found by its mark anywhere on this machine, and ended."""

import os
import signal
import time
from collections.abc import Callable, Container
from contextlib import suppress

from tasks_app.isolated import processes

PASSES = 200
FORKER = "tasks_app.isolated.forker"


def end_orphans() -> int:
    """End every process that was started under a forker which is not alive any more; how many there were."""
    marked = _marked()
    alive = {name for pid, (name, launch) in marked.items() if not launch and _is_forker(pid)}
    dead = {name for name, _ in marked.values()} - alive
    return _end(lambda name, launch: name in dead) if dead else 0


def end_launches(forker: str, launches: Container[int]) -> int:
    """End every process of these launches; how many there were."""
    return _end(lambda name, launch: name == forker and launch.isdecimal() and int(launch) in launches)


def end_forker(forker: str) -> int:
    """End everything that was started under this forker; how many there were."""
    return _end(lambda name, launch: name == forker)


def _end(belongs: Callable[[str, str], bool]) -> int:
    ended: set[processes.Process] = set()
    for _ in range(PASSES):
        found = [pid for pid, mark in _marked().items() if belongs(*mark)]
        if not found:
            break
        for pid in found:
            seen = processes.look(pid)
            if seen is not None and processes.mark_of(pid):
                processes.send(signal.SIGKILL, seen.process)
                ended.add(seen.process)
            with suppress(ChildProcessError):  # it may have become ours to reap, if we are a subreaper
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    return len(ended)


def _marked() -> dict[int, tuple[str, str]]:
    """All processes with a mark: the name of their forker, and the number of their launch."""
    found = {}
    for pid in processes.everyone():
        mark = processes.mark_of(pid)
        if mark:
            name, _, launch = mark.partition(":")
            found[pid] = (name, launch.strip())
    return found


def _is_forker(pid: int) -> bool:
    return FORKER in processes.command(pid)
