"""Processes as the kernel shows them under /proc: who descends from whom, what they use, and how to end them.

A process may leave its group and its session and lose its parents; three things still tell to which launch it belongs.
Orphans come to the forker, which is their subreaper. What a launch starts carries the launch's mark in its environment,
as the kernel shows it. And who was seen once among a launch's descendants is remembered.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MARK = "TASKS_LAUNCH_ID"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


class Process(NamedTuple):
    """A process, for certain: the number may be given to another one later, the start time tells them apart."""

    pid: int
    started: str


class Stat(NamedTuple):
    process: Process
    state: str
    session: int


def look(pid: int) -> Stat | None:
    """The process with this number, if there is one."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may contain anything
    return Stat(Process(pid, fields[19].decode()), fields[0].decode(), int(fields[3]))


def children(pid: int) -> list[int]:
    """The numbers of its children, dead ones that nobody has reaped among them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  (half the time of Path.iterdir)
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


def descendants(pid: int) -> list[int]:
    """Its children, their children, and so on."""
    found, todo = [], [pid]
    while todo:
        below = children(todo.pop())
        found += below
        todo += below
    return found


def environment(pid: int) -> bytes:
    """The environment it was started with. While a process becomes another program it is empty for a moment."""
    return _read(f"/proc/{pid}/environ")


def mark_of(pid: int) -> str:
    """The mark in its environment: the forker's name and the launch's number; empty if it has none."""
    return mark_in(environment(pid))


def mark_in(environment: bytes) -> str:
    for entry in environment.split(b"\0"):
        if entry.startswith(MARK.encode() + b"="):
            return entry.decode(errors="replace").partition("=")[2].strip()
    return ""


def command(pid: int) -> str:
    return _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")


def resident_mb(pid: int) -> float:
    """What it has in memory, in MiB; pages that it shares with others are counted in full."""
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE / 2**20 if fields else 0.0


def own_share_mb(pid: int) -> float:
    """What it has in memory, in MiB; of a page that several share, each has its part."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def send(number: signal.Signals, process: Process) -> None:
    """Signal exactly this process: never another one that has got its number meanwhile."""
    with suppress(OSError):
        handle = os.pidfd_open(process.pid)
        try:
            now = look(process.pid)
            if now is not None and now.process == process:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def everyone() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]


def _read(path: str) -> bytes:
    """A file under /proc, whole; nothing if its process has gone or is somebody else's."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(handle, 65536):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(handle)
