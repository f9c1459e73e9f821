"""How long calls take here, and so how many of them are claimed at once."""

import math
from collections import defaultdict

BATCH_SECONDS = 0.05  # that the calls of one claim are expected to take
MAX_BATCH_CALLS = 200
LATEST_WEIGHT = 0.1  # of the last duration in the running figures


class Durations:
    """The running mean and variance of durations, in which those that are recent count most: Welford's method with
    exponential weights (Finch, Incremental calculation of weighted mean and variance, 2009, section 9).
    """

    def __init__(self) -> None:
        self.mean = 0.0
        self.variance = 0.0
        self.is_known = False

    def note(self, seconds: float) -> None:
        difference = seconds - self.mean
        change = difference * (LATEST_WEIGHT if self.is_known else 1)
        self.mean += change
        self.variance = (1 - LATEST_WEIGHT) * (self.variance + difference * change) if self.is_known else 0.0
        self.is_known = True

    @property
    def expected(self) -> float:
        """In seconds; no more than one in twenty takes longer, or so."""
        return self.mean + 2 * math.sqrt(self.variance)


class BatchSize:
    """How many calls of a queue this process claims at once: one at first, twice as many each time, no more than are
    expected to take 50 ms; and one again after one took longer than was expected.
    """

    def __init__(self) -> None:
        self.durations = Durations()
        self._calls = 1

    def limit(self, waiting: int, processes: int) -> int:
        """If so many calls wait, and this worker has so many processes: each is left its share."""
        return max(1, min(self._calls, math.ceil(waiting / (2 * processes))))

    def note_end(self, *, was_surprising: bool) -> None:
        """A batch has ended."""
        fitting = int(BATCH_SECONDS / max(self.durations.expected, BATCH_SECONDS / MAX_BATCH_CALLS))
        self._calls = 1 if was_surprising else max(1, min(2 * self._calls, fitting))


#: Of this process.
durations_by_task: defaultdict[str, Durations] = defaultdict(Durations)
sizes_by_queue: defaultdict[str, BatchSize] = defaultdict(BatchSize)
