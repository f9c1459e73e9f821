"""What a worker's main process still has to write to the database, in the order in which it came up."""

import threading
from collections import deque
from collections.abc import Callable

from django.db import Error


class WriteBacklog:
    """A queue of writes that a thread flushes, so that nothing else waits for the database.

    `is_served`: there is such a thread. `added` is set whenever something is added.
    """

    def __init__(self) -> None:
        self.is_served = False
        self.added = threading.Event()
        self._writes: deque[Callable[[], object]] = deque()

    def add(self, write: Callable[[], object]) -> None:
        self._writes.append(write)
        self.added.set()

    def flush(self) -> None:
        """Do all writes in order. One that fails with a database error stays first; any other that fails is dropped.

        Raises:
            Exception: whatever a write failed with.
        """
        while self._writes:
            try:
                self._writes[0]()
            except Error:
                raise
            except Exception:
                self._writes.popleft()
                raise
            self._writes.popleft()


write_backlog = WriteBacklog()
