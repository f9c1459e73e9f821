"""Waiting for something in the database: looking often at first, then less often."""

import time
from collections.abc import Callable

FIRST_PAUSE_SECONDS, GROWTH = 0.001, 1.25


def poll(condition: Callable[[], bool], timeout: float | None, longest_pause: float) -> bool:
    """Wait until `condition()` is true; whether it became so within `timeout` seconds (None: as long as it takes)."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_PAUSE_SECONDS
    while not condition():
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * GROWTH, longest_pause)
    return True
