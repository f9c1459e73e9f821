"""Ids of processes, from which others on the same machine can see whether the owner of some work still exists."""

import os
import socket
from functools import cache
from pathlib import Path

import psutil


def process_id() -> str:
    """The id of this process: its machine, its pid, and when it started."""
    return f"{machine_id()} {os.getpid()} {_started(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether `owner` is the id of a process of this machine that does not exist any more."""
    machine_and_pid, _, started = owner.rpartition(" ")
    where, _, pid = machine_and_pid.rpartition(" ")
    if where != machine_id():
        return False
    try:
        found = psutil.Process(int(pid))
        return found.status() == psutil.STATUS_ZOMBIE or f"{found.create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True


@cache
def machine_id() -> str:
    """The machine and its pid namespace: each container on a machine has pids of its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


@cache
def _started(pid: int) -> str:
    return f"{psutil.Process(pid).create_time():.2f}"
