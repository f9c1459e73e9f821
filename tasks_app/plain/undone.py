"""What a worker still has to write, for its keeper to see to."""

import threading
from collections import deque
from collections.abc import Callable

from django.db import Error


class Undone:
    """A list that never blocks. Things are done in their order, each until the database has answered."""

    def __init__(self) -> None:
        self.kept = False  # whether somebody sees to it
        self.called = threading.Event()
        self._waiting: deque[Callable[[], object]] = deque()

    def see_to(self, write: Callable[[], object]) -> None:
        self._waiting.append(write)
        self.called.set()

    def do(self) -> None:
        """Do what waits. One that the database refuses stays; one that fails otherwise is given up.

        Raises:
            Exception: whatever it failed with.
        """
        while self._waiting:
            try:
                self._waiting[0]()
            except Error:
                raise
            except Exception:
                self._waiting.popleft()
                raise
            self._waiting.popleft()


undone = Undone()
