"""Ids of processes, from which others on the same machine can see whether the process still exists."""

import errno
import os
import socket
from functools import cache
from pathlib import Path

import psutil

from handbell.common.procfs import process_stat


def process_id() -> str:
    """The id of this process: its machine, its pid, and when it started."""
    return f"{machine_id()} {os.getpid()} {_start_of(os.getpid())}"


def is_on_this_machine(process: str) -> bool:
    """Whether this is the id of a process whose pid means something here."""
    return process.startswith(f"{machine_id()} ")


def is_dead(process: str) -> bool:
    """Whether this is the id of a process of this machine that does not exist any more."""
    if not is_on_this_machine(process):
        return False
    pid, _, start = process.removeprefix(f"{machine_id()} ").partition(" ")
    found = _start_of(int(pid))
    return not _exists(int(pid)) if found is None else found != start


def is_dead_pid(pid: int) -> bool:
    """Whether no process of this machine has this number."""
    found = _start_of(pid)
    return not _exists(pid) if found is None else not found


@cache
def machine_id() -> str:
    """The machine since it was booted, and its pid namespace: each container on a machine has pids of its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _start_of(pid: int) -> str | None:
    """When a process started: in clock ticks since the machine was booted, which no change of a clock moves. None if it
    cannot be seen. One that has ended, and that nobody has reaped, has no start any more.
    """
    if (stat := process_stat(pid)) is not None:
        return "" if stat.is_zombie else stat.process.start_ticks
    if Path("/proc/self").exists():
        return None
    try:  # macOS
        found = psutil.Process(pid)
        return "" if found.status() == psutil.STATUS_ZOMBIE else f"{found.create_time():.2f}"
    except psutil.Error:
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:  # otherwise it is another user's
        return error.errno != errno.ESRCH
    return True
