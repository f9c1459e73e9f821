"""A heartbeat: a periodic action, such as renewing a claim, while some work is in progress.

One thread of each process does this for all that is in progress there, on one connection, which is closed once there
has been nothing to do for a while.
"""

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import Error, connection

from handbell.common.fork_lock import no_fork

IDLE_SECONDS = 5.0  # after which the connection is closed
logger = logging.getLogger(__name__)


class _Heartbeat:
    """What is called every so many seconds, and when it is due next by the monotonic clock."""

    def __init__(self, seconds: float, beat: Callable[[], object]) -> None:
        self.seconds, self.beat = seconds, beat
        self.due = time.monotonic() + seconds


class _HeartbeatThread:
    """The thread, started with the first heartbeat. Whatever is changed is changed under `self._changed`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heartbeats: dict[int, _Heartbeat] = {}
        self._numbers = itertools.count()
        self._now: int | None = None  # the one that is called
        self._is_started = False

    def add(self, heartbeat: _Heartbeat) -> int:
        with self._changed:
            number = next(self._numbers)
            self._heartbeats[number] = heartbeat
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="heartbeat", daemon=True).start()
            self._changed.notify_all()
        return number

    def remove(self, number: int) -> None:
        """Call it no more; if it is being called, wait until that is over."""
        with self._changed:
            del self._heartbeats[number]
            self._changed.wait_for(lambda: self._now != number)

    def _run(self) -> None:
        while True:
            heartbeat = self._next()
            try:
                with no_fork():
                    heartbeat.beat()
            except Error:
                connection.close()  # tried again in a moment
            except BaseException:  # (whatever it is, the others are to be called)
                logger.exception("A heartbeat failed. It is tried again in a moment.")
                connection.close()
            with self._changed:
                heartbeat.due = time.monotonic() + heartbeat.seconds
                self._now = None
                self._changed.notify_all()

    def _next(self) -> _Heartbeat:
        """Wait until one is due."""
        with self._changed:
            while True:
                if not self._changed.wait_for(lambda: self._heartbeats, IDLE_SECONDS):
                    connection.close()
                    self._changed.wait_for(lambda: self._heartbeats)
                number, first = min(self._heartbeats.items(), key=lambda item: item[1].due)
                seconds = first.due - time.monotonic()
                if seconds <= 0:
                    self._now = number
                    return first
                self._changed.wait(seconds)


class _ThisProcess:
    are_needed = True
    thread = _HeartbeatThread()

    @classmethod
    def renew(cls) -> None:
        cls.thread = _HeartbeatThread()


os.register_at_fork(after_in_child=_ThisProcess.renew)


@contextmanager
def heartbeat(seconds: float, beat: Callable[[], object]) -> Iterator[None]:
    """While the block runs, call `beat` every so many seconds from another thread."""
    if not _ThisProcess.are_needed:
        yield
        return
    thread = _ThisProcess.thread
    number = thread.add(_Heartbeat(seconds, beat))
    try:
        yield
    finally:
        thread.remove(number)


@contextmanager
def no_heartbeats() -> Iterator[None]:
    """While the block runs, heartbeats do nothing: a thread could not see the rows of a test's open transaction."""
    _ThisProcess.are_needed = False
    try:
        yield
    finally:
        _ThisProcess.are_needed = True
