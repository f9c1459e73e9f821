"""Child processes: tying them to their parent, and saying how they ended."""

import ctypes
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path

from django.conf import settings

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)


def end_with_peer(end: socket.socket) -> None:
    """Have the kernel end the socket's owner once its other end is closed, whatever that process is doing: it sends
    SIGIO then, whose default action is to terminate. Nothing may be sent to the socket meanwhile.
    """
    fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)


def set_owner(end: socket.socket, pid: int) -> None:
    """Make this process the socket's owner."""
    fcntl.fcntl(end, fcntl.F_SETOWN, pid)


def outlive_peer(end: socket.socket) -> None:
    """Undo that."""
    fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) & ~os.O_ASYNC)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this signal to this process when its parent dies (on Linux; elsewhere this does nothing)."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans(*, enabled: bool = True) -> None:
    """Have the kernel make this process the parent of every descendant whose parent dies, or have it stop doing so (on
    Linux; elsewhere this does nothing).
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(enabled))


def describe_exit(code: int) -> str:
    """How a process ended, in words, from its return code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code}, {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"


def working_directory() -> Path:
    """The folder in which child processes are started: the project's, where its modules are found."""
    return Path(getattr(settings, "BASE_DIR", Path.cwd()))
