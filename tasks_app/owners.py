"""Who owns a piece of work: a process, named so that others on its machine can see whether it is still there."""

import os
import socket
from functools import cache
from pathlib import Path

import psutil


def owner() -> str:
    """This process, so that others on the same machine can see whether it is still there."""
    return f"{machine()} {os.getpid()} {_started(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether the owner was a process of this machine that is not there any more."""
    where, _, process = owner.rpartition(" ")[0].rpartition(" ")
    if where != machine():
        return False
    try:
        found = psutil.Process(int(process))
        return found.status() == psutil.STATUS_ZOMBIE or f"{found.create_time():.2f}" != owner.rpartition(" ")[2]
    except psutil.NoSuchProcess:
        return True


@cache
def machine() -> str:
    """The machine and its process numbers: containers on one machine count their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


@cache
def _started(pid: int) -> str:
    return f"{psutil.Process(pid).create_time():.2f}"
