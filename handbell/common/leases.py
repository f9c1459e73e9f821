"""Leases: for how long the owner of some work may be silent, by the clock of whoever watches it.

A living owner changes a counter every few seconds. An observer counts for how long it has seen the same value. No
moment in time is compared with another machine's, and time in which the observer was stopped, or could not read the
database, does not count.
"""

import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from handbell.conf import conf

K = TypeVar("K")
BEATS_PER_LEASE = 5
MAX_GAP_SECONDS = 2.0  # of the time between two looks, so much counts


def beat_seconds() -> float:
    """How often an owner changes its counter."""
    return conf.LEASE_SECONDS / BEATS_PER_LEASE


class SilenceWatch(Generic[K]):
    """For how long counters have not changed, as far as this process has seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._seen: dict[K, tuple[object, float]] = {}

    def look(self, values: Mapping[K, object]) -> None:
        """Take in what the counters say now. One that is not among them is forgotten."""
        now = self._clock()
        passed, self._looked_at = min(now - self._looked_at, MAX_GAP_SECONDS), now
        before, self._seen = self._seen, {}
        for key, value in values.items():
            seen, seconds = before.get(key, (None, 0.0))
            is_same = key in before and seen == value
            self._seen[key] = value, seconds + passed if is_same else 0.0

    def silent(self, seconds: float) -> set[K]:
        """Those that have not changed for longer than so many seconds."""
        return {key for key, (_, silent_seconds) in self._seen.items() if silent_seconds > seconds}
