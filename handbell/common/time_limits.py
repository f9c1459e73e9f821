"""What runs inside a task: each process of this worker says it in memory that its main process sees, which keeps the
time limits of it.

A process notes what it begins and until when it may take; the main process sends it a signal at the soft limit, at
which `SoftTimeLimitExceeded` is raised in it, and kills it at the hard one, whatever it is doing: an endless loop in C
that holds the interpreter's lock, too. Both read the same monotonic clock, since they are on one machine.
"""

import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple

import psutil
from billiard import current_process
from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]
from celery.exceptions import SoftTimeLimitExceeded

LOOK_SECONDS = 0.2  # between two looks at what runs; a limit is kept with about this precision
MAX_PROCESSES = 256  # of one worker; any more have no limits
MAX_DEATH_SECONDS = 10.0  # from a kill until the process is gone
SOFT_SIGNAL = signal.SIGUSR2
_SLOT = struct.Struct("=qqqqddd")


class WorkKind(IntEnum):
    """In which table of the ledger the work is."""

    CALL = 1
    OPERATION = 2


class RunningWork(NamedTuple):
    """What a process runs: its kind and its id in the ledger, the attempt, and when its limits are reached by the
    monotonic clock. `allowed_seconds` is the hard limit that it began with.
    """

    pid: int
    kind: int
    id: int
    attempt: int
    soft_deadline: float
    hard_deadline: float
    allowed_seconds: float


class _Table:
    """`memory` is there in workers, and nowhere else."""

    memory: ClassVar[mmap.mmap | None] = None
    offset: ClassVar[int | None] = None  # of this process's slot
    pid: ClassVar[int] = 0  # whose offset that is
    soft_deadline: ClassVar[float] = float("inf")


def open_table() -> None:
    """Before the worker's processes are forked."""
    _Table.memory = mmap.mmap(-1, MAX_PROCESSES * _SLOT.size)


def run_limited(
    kind: WorkKind, work_id: int, attempt: int, soft: float | None, hard: float | None, call: Callable[[], Any]
) -> Any:
    """`call()`, for at most so many seconds if this is a process of a worker's pool, and without a limit elsewhere.

    Raises:
        celery.exceptions.SoftTimeLimitExceeded: `call` has taken longer than `soft` seconds.
    """
    if (memory := _Table.memory) is None or (offset := _own_offset()) is None:
        return call()
    now, never = time.monotonic(), float("inf")
    _Table.soft_deadline = now + soft if soft else never
    hard_deadline = now + hard if hard else never
    limits = _Table.soft_deadline, hard_deadline, hard or never
    _SLOT.pack_into(memory, offset, os.getpid(), kind, work_id, attempt, *limits)
    try:
        return call()
    finally:
        _Table.soft_deadline = never
        if not terminate_handler_fired():  # otherwise the main process gives the work back
            _SLOT.pack_into(memory, offset, 0, 0, 0, 0, never, never, never)


def is_told_to_stop(error: BaseException) -> bool:
    """Whether this was raised because the process is to end, and not by what it happened to run."""
    return isinstance(error, SystemExit) and terminate_handler_fired()


def _own_offset() -> int | None:
    """Where the slot of this process is; None where signals do not reach the function: in threads, and in no pool."""
    if _Table.pid != os.getpid():
        _Table.pid, _Table.offset = os.getpid(), None
        index = getattr(current_process(), "index", MAX_PROCESSES)
        if index < MAX_PROCESSES and threading.current_thread() is threading.main_thread():
            _Table.offset = index * _SLOT.size
            signal.signal(SOFT_SIGNAL, _raise_at_the_limit)
    return _Table.offset


def _raise_at_the_limit(*signal_and_frame: Any) -> None:
    if time.monotonic() >= _Table.soft_deadline:  # otherwise it came too late: something else runs by now
        _Table.soft_deadline = float("inf")
        raise SoftTimeLimitExceeded


def running_work(kind: WorkKind) -> Iterator[RunningWork]:
    """What the processes of this worker run at this moment."""
    for slot in _SLOT.iter_unpack(bytes(_Table.memory or b"")):
        if slot[0] and slot[1] == kind:
            yield RunningWork._make(slot)


def watch_time_limits(kind: WorkKind, on_killed: Callable[[RunningWork], None]) -> None:
    """Keep the limits from a thread, for as long as this process lives. `on_killed` is called in a thread of its own
    with what a process ran that is gone now.
    """
    threading.Thread(target=_watch, args=(kind, on_killed), name="time-limits", daemon=True).start()


def _watch(kind: WorkKind, on_killed: Callable[[RunningWork], None]) -> None:
    seen: set[RunningWork] = set()
    signalled: set[RunningWork] = set()
    while True:
        time.sleep(LOOK_SECONDS)
        now, running = time.monotonic(), set(running_work(kind))
        for work in running & seen:  # seen twice: no half-written one
            if now >= work.hard_deadline:
                threading.Thread(target=_kill, args=(work, on_killed), name="time-limit", daemon=True).start()
                _forget(work)
            elif now >= work.soft_deadline and work not in signalled:
                signalled.add(work)
                send_signal(work.pid, SOFT_SIGNAL)
        seen, signalled = running, signalled & running


def _kill(work: RunningWork, on_killed: Callable[[RunningWork], None]) -> None:
    process = send_signal(work.pid, signal.SIGKILL)
    deadline = time.monotonic() + MAX_DEATH_SECONDS
    with suppress(psutil.NoSuchProcess):
        while process and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)
    on_killed(work)


def send_signal(pid: int, number: int) -> psutil.Process | None:
    """Send the signal, if this is a child of ours: otherwise the pid is somebody else's by now."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        process = psutil.Process(pid)
        if process.ppid() == os.getpid():
            os.kill(pid, number)
            return process
    return None


def _forget(work: RunningWork) -> None:
    for offset in range(0, MAX_PROCESSES * _SLOT.size, _SLOT.size):
        if _Table.memory and _SLOT.unpack_from(_Table.memory, offset) == work:
            _SLOT.pack_into(_Table.memory, offset, 0, 0, 0, 0, *[float("inf")] * 3)
