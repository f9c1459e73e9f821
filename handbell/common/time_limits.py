"""What runs inside a task: each process of this worker says it in memory that its main process sees, which keeps the
time limits of it.

A process notes what it begins and until when it may take; the main process sends it a signal at the soft limit, at
which `SoftTimeLimitExceeded` is raised in it, and kills it at the hard one, whatever it is doing: an endless loop in C
that holds the interpreter's lock, too. Both read the same monotonic clock, since they are on one machine.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple

import psutil
from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]
from celery.exceptions import SoftTimeLimitExceeded

from handbell.common.slots import SlotTable, process_slot

LOOK_SECONDS = 0.2  # between two looks at what runs; a limit is kept with about this precision
MAX_DEATH_SECONDS = 10.0  # from a kill until the process is gone
SOFT_SIGNAL = signal.SIGUSR2
_table = SlotTable("=qqqqddd")  # a RunningWork each
_NEVER = float("inf")


class WorkKind(IntEnum):
    """In which table of the ledger the work is."""

    CALL = 1
    OPERATION = 2


class RunningWork(NamedTuple):
    """What a process runs: its kind and its id in the ledger, the token of its claim (0 under a lane's lock), and when
    its limits are reached by the monotonic clock. `allowed_seconds` is the hard limit that it began with.
    """

    pid: int
    kind: int
    id: int
    claim_token: int
    soft_deadline: float
    hard_deadline: float
    allowed_seconds: float


class _ThisProcess:
    slot: ClassVar[int | None] = None
    pid: ClassVar[int] = 0  # whose slot that is
    soft_deadline: ClassVar[float] = _NEVER
    at_soft_limit: "ClassVar[Callable[[], None] | None]" = None


def open_table() -> None:
    """Before the worker's processes are forked."""
    _table.open()


def run_limited(
    kind: WorkKind, work_id: int, claim_token: int, soft: float | None, hard: float | None, call: Callable[[], Any]
) -> Any:
    """`call()`, for at most so many seconds if this is a process of a worker's pool, and without a limit elsewhere.

    Raises:
        celery.exceptions.SoftTimeLimitExceeded: `call` has taken longer than `soft` seconds.
    """
    if not _table.is_open or (slot := _own_slot()) is None:
        return call()
    now = time.monotonic()
    _ThisProcess.soft_deadline = now + soft if soft else _NEVER
    hard_deadline = now + hard if hard else _NEVER
    limits = _ThisProcess.soft_deadline, hard_deadline, hard or _NEVER
    _table.write(slot, os.getpid(), kind, work_id, claim_token, *limits)
    try:
        return call()
    finally:
        _ThisProcess.soft_deadline = _NEVER
        if not terminate_handler_fired():  # otherwise the main process gives the work back
            _clear(slot)


@contextmanager
def at_soft_limit(call: Callable[[], None]) -> Iterator[None]:
    """Within the block, call this at the soft limit, where `SoftTimeLimitExceeded` would be raised."""
    _ThisProcess.at_soft_limit = call
    try:
        yield
    finally:
        _ThisProcess.at_soft_limit = None


def is_told_to_stop(error: BaseException) -> bool:
    """Whether this was raised because the process is to end, and not by what it happened to run."""
    return isinstance(error, SystemExit) and terminate_handler_fired()


def _own_slot() -> int | None:
    """The slot of this process; None where signals do not reach the function: in threads, and in no pool."""
    if _ThisProcess.pid != os.getpid():
        _ThisProcess.pid, _ThisProcess.slot = os.getpid(), None
        if (slot := process_slot()) is not None and threading.current_thread() is threading.main_thread():
            _ThisProcess.slot = slot
            signal.signal(SOFT_SIGNAL, _raise_at_the_limit)
    return _ThisProcess.slot


def _clear(slot: int) -> None:
    _table.write(slot, 0, 0, 0, 0, _NEVER, _NEVER, _NEVER)


def _raise_at_the_limit(*signal_and_frame: Any) -> None:
    if time.monotonic() >= _ThisProcess.soft_deadline:  # otherwise it came too late: something else runs by now
        _ThisProcess.soft_deadline = _NEVER
        if _ThisProcess.at_soft_limit is None:
            raise SoftTimeLimitExceeded
        _ThisProcess.at_soft_limit()


def running_work(kind: WorkKind) -> Iterator[RunningWork]:
    """What the processes of this worker run at this moment."""
    for _, values in _table.used():
        if values[1] == kind:
            yield RunningWork._make(values)


def watch_time_limits(
    kind: WorkKind,
    *,
    before_kill: Callable[[RunningWork], None] | None = None,
    on_killed: Callable[[RunningWork], None] | None = None,
) -> None:
    """Keep the limits from a thread, for as long as this process lives. `before_kill` and `on_killed` are called in a
    thread of their own with what a process runs that is to be killed, or that is gone now.
    """

    def kill(work: RunningWork) -> None:
        try:
            if before_kill is not None:
                before_kill(work)
        finally:
            _kill(work)
        if on_killed is not None:
            on_killed(work)

    threading.Thread(target=_watch, args=(kind, kill), name="time-limits", daemon=True).start()


def _watch(kind: WorkKind, kill: Callable[[RunningWork], None]) -> None:
    seen: set[RunningWork] = set()
    signalled: set[RunningWork] = set()
    while True:
        time.sleep(LOOK_SECONDS)
        now, running = time.monotonic(), set(running_work(kind))
        for work in running & seen:  # seen twice: no half-written one
            if now >= work.hard_deadline:
                threading.Thread(target=kill, args=(work,), name="time-limit", daemon=True).start()
                _forget(work)
            elif now >= work.soft_deadline and work not in signalled:
                signalled.add(work)
                send_signal(work.pid, SOFT_SIGNAL)
        seen, signalled = running, signalled & running


def _kill(work: RunningWork) -> None:
    process = send_signal(work.pid, signal.SIGKILL)
    deadline = time.monotonic() + MAX_DEATH_SECONDS
    with suppress(psutil.NoSuchProcess):
        while process and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)


def send_signal(pid: int, number: int) -> psutil.Process | None:
    """Send the signal, if this is a child of ours: otherwise the pid is somebody else's by now."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        process = psutil.Process(pid)
        if process.ppid() == os.getpid():
            os.kill(pid, number)
            return process
    return None


def _forget(work: RunningWork) -> None:
    for slot, values in _table.used():
        if values == work:
            _clear(slot)
