"""What a worker's main process still has to write to the database, in the order in which it came up."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from django.db import Error, connection

from handbell.common.fork_lock import no_fork
from handbell.common.outages import is_outage

MAX_WRITES = 10_000
MAX_FAILURES = 10  # of one write, while others behind it succeed: then it is the write that is at fault
PAUSE_SECONDS = 1.0  # before a database that does not answer is asked again
logger = logging.getLogger(__name__)


@dataclass
class _Write:
    call: Callable[[], object]
    failures: int = 0


class WriteBacklog:
    """A queue of writes that a thread does, so that nothing else waits for the database.

    `is_served`: there is such a thread.
    """

    def __init__(self) -> None:
        self.is_served = False
        self._added = threading.Event()
        self._writes: deque[_Write] = deque()

    def serve(self) -> None:
        """Start the thread. It runs until the process ends."""
        self.is_served = True
        threading.Thread(target=self._run, name="write-backlog", daemon=True).start()

    def add(self, write: Callable[[], object]) -> bool:
        """Have it done in its turn; False if too much waits already."""
        if len(self._writes) >= MAX_WRITES:
            return False
        self._writes.append(_Write(write))
        self._added.set()
        return True

    def flush(self) -> bool:
        """Do each write once, in order. Those for which the database was away stay; whether there are any."""
        left, has_written = [], False
        for _ in range(len(self._writes)):
            write = self._writes.popleft()
            try:
                with no_fork():
                    write.call()
                has_written = True
            except Exception as error:
                connection.close()
                if not (isinstance(error, Error) and is_outage(error)):
                    logger.exception("Something could not be written, and is dropped.")
                    continue
                left.append(write)
                logger.warning("This worker could not write: %s. It tries again in a moment.", str(error).strip())
        self._keep(left, has_written=has_written)
        return bool(self._writes)

    def _keep(self, left: list[_Write], *, has_written: bool) -> None:
        """Keep those that failed, before whatever was added meanwhile, but not for ever if the others succeed."""
        for write in reversed(left):
            write.failures += has_written
            if write.failures < MAX_FAILURES:
                self._writes.appendleft(write)
            else:
                logger.error(
                    "Something could not be written %s times while other things could, and is dropped.", MAX_FAILURES
                )

    def _run(self) -> None:
        while True:
            self._added.wait()
            self._added.clear()
            while self.flush():
                self._added.wait(PAUSE_SECONDS)
                self._added.clear()


write_backlog = WriteBacklog()
