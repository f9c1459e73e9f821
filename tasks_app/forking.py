"""Database work in a thread beside one that forks."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

_forking = threading.RLock()


@contextmanager
def unforked() -> Iterator[None]:
    """While the block runs, this process does not fork, and at its end SQLite has no connection in this thread.

    SQLite counts its locks in the memory of the process. A child that is forked while a thread holds one believes for
    ever that it is held, and waits in vain: https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
    """
    if connection.vendor != "sqlite":
        yield
        return
    with _forking:
        try:
            yield
        finally:
            connection.close()


def _forget() -> None:
    global _forking  # noqa: PLW0603  (its owner is not in the child)
    _forking = threading.RLock()


os.register_at_fork(
    before=lambda: _forking.acquire(), after_in_parent=lambda: _forking.release(), after_in_child=_forget
)
