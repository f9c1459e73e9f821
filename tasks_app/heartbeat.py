"""Saying every so often that something still goes on, while it does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import Error, connection

from tasks_app.forking import unforked


@contextmanager
def beating(seconds: float, beat: Callable[[], object]) -> Iterator[None]:
    """While the block runs, call `beat` every so many seconds from a thread of its own."""
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(seconds):
            try:
                with unforked():
                    beat()
            except Error:
                connection.close()  # tried again in a moment
        connection.close()

    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
