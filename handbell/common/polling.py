"""Waiting for something in the database: looking often at first, then less often."""

import time
from collections.abc import Callable, Iterator

FIRST_PAUSE_SECONDS, GROWTH = 0.001, 1.25


def pauses(longest: float) -> Iterator[float]:
    """In seconds: short at first, and then longer and longer."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * GROWTH, longest)


def poll(condition: Callable[[], bool], timeout: float | None, longest_pause: float) -> bool:
    """Wait until `condition()` is true; whether it became so within `timeout` seconds (None: as long as it takes)."""
    deadline = None if timeout is None else time.monotonic() + timeout
    for pause in pauses(longest_pause):
        if condition():
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    raise AssertionError("There is always another pause.")
