"""The thread in each worker's main process that reports that the worker is alive, and looks after its child processes.

It runs until the process ends. A database that does not answer holds up this thread and nothing else.
"""

import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import ClassVar

from django.db import Error, connection

from handbell.celery.forgotten_claims import ForgottenClaims
from handbell.common.attempt import attempt
from handbell.common.claims import claim_owner
from handbell.common.leases import SilenceWatch, beat_seconds
from handbell.common.procfs import process_stat
from handbell.conf import conf
from handbell.models import Owner
from handbell.recovery import recover_claims

LOOK_SECONDS = 1.0  # between two looks at the child processes
_PID = struct.Struct("=q")
logger = logging.getLogger(__name__)


def register_worker(owner: Owner) -> None:
    """Write that the worker is there, before its first child is forked, which must not inherit the connection."""
    _Births.open()
    try:
        owner.beat()
    except Error as error:
        logger.warning("The database does not answer yet: %s", str(error).strip())
    connection.close()


def start_worker_heartbeat(owner: Owner, children: Callable[[], Collection[int]]) -> None:
    """Start the thread; `children` are the pids of the worker's processes now."""
    threading.Thread(target=_run, args=(owner, children), name="worker-heartbeat", daemon=True).start()


def _run(owner: Owner, children: Callable[[], Collection[int]]) -> None:
    watch, forgotten_claims, next_beat = ChildWatch(), ForgottenClaims(), 0.0
    while True:
        now = time.monotonic()
        if now >= next_beat and attempt(owner.beat):
            next_beat = now + beat_seconds()
            attempt(forgotten_claims.release)
        watch.look(children(), _Births.read())
        for pid, reason in watch.lost().items():
            if attempt(lambda pid=pid, reason=reason: recover_claims(claim_owner(pid), reason)):  # type: ignore[misc]
                watch.forget(pid)
        time.sleep(LOOK_SECONDS)


class _Births:
    """A pipe in which each child process leaves its pid as it begins: it may die before it is looked for."""

    pipe: ClassVar[tuple[int, int] | None] = None

    @classmethod
    def open(cls) -> None:
        cls.pipe = os.pipe()
        for end in cls.pipe:
            os.set_blocking(end, False)

    @classmethod
    def read(cls) -> set[int]:
        text = b""
        with suppress(BlockingIOError):
            while cls.pipe and (part := os.read(cls.pipe[0], 65536)):
                text += part
        return {pid for (pid,) in _PID.iter_unpack(text)}


def announce_birth() -> None:
    """In a child process, before its first task."""
    if _Births.pipe is not None:
        with suppress(BlockingIOError):  # the main process has not read it for thousands of processes
            os.write(_Births.pipe[1], _PID.pack(os.getpid()))


class ChildWatch:
    """Which of the worker's processes are gone, or have been stopped for the lease. A child that dies while it runs a
    task is reported by Celery, too, with how it died; so it is given a moment.
    """

    def __init__(self) -> None:
        self._alive: set[int] = set()
        self._missing: set[int] = set()
        self._gone: set[int] = set()
        self._stopped: SilenceWatch[int] = SilenceWatch()

    def look(self, children: Collection[int], born: Collection[int] = ()) -> None:
        """Take in which processes there are now, and which have begun since the last look, and may have ended."""
        alive = set(children)
        self._alive |= set(born)
        self._gone |= self._missing - alive
        self._missing, self._alive = self._alive - alive, alive
        stats = {pid: process_stat(pid) for pid in alive}
        self._stopped.look({pid: True for pid, stat in stats.items() if stat is not None and stat.is_stopped})

    def lost(self) -> dict[int, str]:
        """The pids of those whose work is to be given back, with the reason."""
        stopped = dict.fromkeys(self._stopped.silent(conf.LEASE_SECONDS), "the process that ran it was stopped")
        return {**stopped, **dict.fromkeys(self._gone, "the process that ran it died")}

    def forget(self, pid: int) -> None:
        """Its work has been given back."""
        self._gone.discard(pid)
