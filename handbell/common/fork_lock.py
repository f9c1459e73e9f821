"""A lock that keeps this process from forking while one of its threads uses SQLite."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

_fork_lock = threading.RLock()


@contextmanager
def no_fork() -> Iterator[None]:
    """While the block runs, this process does not fork, and at its end SQLite has no connection in this thread.

    SQLite counts its locks in the memory of the process. A child that is forked while a thread holds one takes it for
    held forever, and waits for it: https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
    """
    if connection.vendor != "sqlite":
        yield
        return
    with _fork_lock:
        try:
            yield
        finally:
            connection.close()


def _renew_in_child() -> None:
    global _fork_lock  # noqa: PLW0603  (its owner is not in the child)
    _fork_lock = threading.RLock()


os.register_at_fork(
    before=lambda: _fork_lock.acquire(), after_in_parent=lambda: _fork_lock.release(), after_in_child=_renew_in_child
)
