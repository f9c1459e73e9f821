"""A heartbeat: a periodic action, such as renewing a claim, while some work is in progress."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import Error, connection

from handbell.common.fork_lock import no_fork


class _Heartbeats:
    are_needed = True


@contextmanager
def heartbeat(seconds: float, beat: Callable[[], object]) -> Iterator[None]:
    """While the block runs, call `beat` every so many seconds from a thread of its own."""
    if not _Heartbeats.are_needed:
        yield
        return
    done = threading.Event()

    def run() -> None:
        while not done.wait(seconds):
            try:
                with no_fork():
                    beat()
            except Error:
                connection.close()  # tried again in a moment
        connection.close()

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def no_heartbeats() -> Iterator[None]:
    """While the block runs, heartbeats do nothing: a thread could not see the rows of a test's open transaction."""
    _Heartbeats.are_needed = False
    try:
        yield
    finally:
        _Heartbeats.are_needed = True
