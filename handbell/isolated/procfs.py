"""Processes as the kernel shows them under /proc: who descends from whom, what they use, and how to end them.

A process may leave its group and its session and lose its parents; three things still tell to which launch it belongs.
Orphans come to the fork server, which is their subreaper. What a launch starts carries the launch's label in its
environment, as the kernel shows it. And whatever was seen once among a launch's descendants is remembered.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LABEL_VARIABLE = "HANDBELL_LAUNCH_ID"
LAUNCH_NUMBER_WIDTH = 20  # a label always has the same length, so that a child can write its own over it
PROC_READ_BYTES = 65536
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


class ProcessIdentity(NamedTuple):
    """A process, for certain: its number may be given to another one later, the start time tells them apart.

    `start_ticks` is in clock ticks since the machine was booted.
    """

    pid: int
    start_ticks: str


class ProcessStat(NamedTuple):
    """A part of /proc/PID/stat."""

    process: ProcessIdentity
    state: str
    session: int

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended and nobody has reaped it yet."""
        return self.state == "Z"


class ProcessLabel(NamedTuple):
    """What a process carries in its environment: the name of its fork server, and the number of its launch. The fork
    server itself has no launch.
    """

    server: str
    launch: int | None

    def text(self) -> str:
        """The value of the environment variable."""
        return f"{self.server}:{'' if self.launch is None else self.launch:<{LAUNCH_NUMBER_WIDTH}}"


def process_stat(pid: int) -> ProcessStat | None:
    """The process with this number, if there is one."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may contain anything
    return ProcessStat(ProcessIdentity(pid, fields[19].decode()), fields[0].decode(), int(fields[3]))


def children_of(pid: int) -> list[int]:
    """The numbers of its children, including zombies."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  (half the time of Path.iterdir)
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


def descendants_of(pid: int) -> list[int]:
    """Its children, their children, and so on."""
    found, todo = [], [pid]
    while todo:
        children = children_of(todo.pop())
        found += children
        todo += children
    return found


def living_processes(pids: list[int]) -> set[ProcessIdentity]:
    """Those of these processes that exist and are no zombies."""
    return {stat.process for stat in map(process_stat, pids) if stat and not stat.is_zombie}


def environment_of(pid: int) -> bytes:
    """The environment it was started with. While a process becomes another program it is empty for a moment."""
    return _read(f"/proc/{pid}/environ")


def label_of(pid: int) -> ProcessLabel | None:
    """The label in its environment, if it has one."""
    return label_in(environment_of(pid))


def label_in(environment: bytes) -> ProcessLabel | None:
    """The label in an environment as the kernel shows it, if there is one."""
    for entry in environment.split(b"\0"):
        if entry.startswith(LABEL_VARIABLE.encode() + b"="):
            text = entry.decode(errors="replace").partition("=")[2]
            server, _, launch = text.partition(":")
            launch = launch.strip()
            return ProcessLabel(server, int(launch) if launch.isdecimal() else None) if server else None
    return None


def command_line(pid: int) -> str:
    """The program and its arguments; empty for a zombie, and for a process that does not exist."""
    return _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")


def resident_mb(pid: int) -> float:
    """Its resident set size in MiB: pages that it shares with others count in full."""
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE_BYTES / 2**20 if fields else 0.0


def proportional_mb(pid: int) -> float:
    """Its proportional set size in MiB: a page that several processes share counts as a part for each."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def signal_process(number: signal.Signals, process: ProcessIdentity) -> None:
    """Signal exactly this process: never another one that has been given its number meanwhile."""
    with suppress(OSError):
        handle = os.pidfd_open(process.pid)
        try:
            now = process_stat(process.pid)
            if now is not None and now.process == process:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def all_pids() -> list[int]:
    """The numbers of all processes on this machine."""
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]


def _read(path: str) -> bytes:
    """A file under /proc, whole; nothing if its process has ended or is somebody else's."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(handle, PROC_READ_BYTES):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(handle)
