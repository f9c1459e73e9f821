"""One launch's process, as its forker sees it: what it prints, how long it may run, and who belongs to it."""

import os
import selectors
import signal
import time
from contextlib import suppress
from enum import Enum

from tasks_app.isolated import endings, processes
from tasks_app.isolated.child import MOST_RESULT
from tasks_app.isolated.messages import Ending, Order
from tasks_app.isolated.output import Output
from tasks_app.isolated.processes import Process

PART = 65536
UNKILLABLE_SECONDS = 5.0


class Phase(Enum):
    RUNNING = "its time is not over"
    LEAVING = "it was sent TERM, and has a moment to obey"
    DYING = "whatever is left of it is killed"


class Cause(Enum):
    """Why it is ended from outside."""

    DEADLINE = "deadline"
    MEMORY = "memory"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


class Life:
    """A launch from its fork to the end of everything that it started."""

    def __init__(self, order: Order, pid: int, pipes: tuple[int, int, int], keep: int) -> None:
        self.order, self.pid = order, pid
        self.began, self.began_at = time.monotonic(), time.time()
        self.deadline = self.began + order.timeout
        self.phase = Phase.RUNNING
        self.cause: Cause | None = None
        self.by_force = False
        self.exit_status: int | None = None
        self.used_mb = 0.0
        self.ended_after = 0.0
        self.due = self.deadline  # when the forker is to look at it again
        self.announced = False
        self.known: set[Process] = set()  # those that it has started, apart from its own process
        self._dying_since = 0.0
        self._pipes = pipes
        self._outputs = (Output(keep), Output(keep), Output(2 * MOST_RESULT))

    # --- What it prints ------------------------------------------------------------------------------------------

    def listen(self, selector: selectors.BaseSelector) -> None:
        for number, pipe in enumerate(self._pipes):
            os.set_blocking(pipe, False)
            selector.register(pipe, selectors.EVENT_READ, (self, number))

    def read(self, selector: selectors.BaseSelector, number: int) -> None:
        """Take what is there; no more than a part at a time, so that one that prints does not hold up the others."""
        pipe = self._pipes[number]
        with suppress(BlockingIOError):
            part = os.read(pipe, PART)
            self._outputs[number].add(part)
            if not part:
                selector.unregister(pipe)

    def close(self, selector: selectors.BaseSelector) -> None:
        """Take what is left, as much as fits into a pipe; who else may hold the other end does not matter."""
        for number, pipe in enumerate(self._pipes):
            with suppress(BlockingIOError):
                for _ in range(16):
                    if not (part := os.read(pipe, PART)):
                        break
                    self._outputs[number].add(part)
            with suppress(KeyError):
                selector.unregister(pipe)
            os.close(pipe)

    # --- How it ends ---------------------------------------------------------------------------------------------

    def end(self, cause: Cause | None, now: float) -> None:
        """Begin to end it: with TERM and a grace at its deadline, at once otherwise."""
        if self.phase is not Phase.RUNNING:
            return
        self.cause, self.ended_after = cause, now - self.began
        if cause in {Cause.MEMORY, None}:
            self._die(now)
        else:
            grace = self.order.grace
            late = now - self.deadline if cause is Cause.DEADLINE else 0.0
            self.phase, self.due = Phase.LEAVING, now + max(grace - late, grace / 2)
            self.signal(signal.SIGTERM)

    def exited(self, status: int, now: float) -> None:
        """Its own process has ended and is reaped; what it started is killed."""
        self.exit_status = status
        if self.phase is Phase.RUNNING:
            self.ended_after = now - self.began
        if self.phase is not Phase.DYING and not (self.phase is Phase.LEAVING and self.known):
            self._die(now)

    def press(self, now: float) -> None:
        """Whoever is still there when the grace is over, or after, is killed."""
        if self.phase is Phase.LEAVING:
            self.by_force = True
            self._die(now)
        self.signal(signal.SIGKILL)

    def _die(self, now: float) -> None:
        self.phase, self.due, self._dying_since = Phase.DYING, now, now

    def signal(self, number: signal.Signals) -> None:
        if self.exit_status is None:  # not reaped, so its number is still its own; and so is its group's
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            os.kill(self.pid, number)  # the group may be another one by now, or not there yet
        for process in self.known:
            processes.send(number, process)

    def is_over(self, now: float) -> bool:
        """Whether nothing is left of it; or what is left cannot be killed, because the kernel is busy with it."""
        if self.exit_status is None:
            return False
        return not self.known or now - self._dying_since > UNKILLABLE_SECONDS

    def ending(self) -> Ending:
        verdict = self._verdict()
        left = len(self.known)
        reason = verdict.reason + (f"; {left} of its processes could not be killed yet" if left else "")
        out, err, _ = self._outputs
        result, trace = verdict.result, verdict.traceback and _clean(verdict.traceback)
        exit_code = verdict.exit_code
        return Ending(
            self.order.id,
            verdict.status,
            _clean(reason),
            result,
            trace,
            str(out),
            str(err),
            exit_code,
            self.pid,
            self.began_at,
            self.began_at + time.monotonic() - self.began,
        )

    def _verdict(self) -> endings.Verdict:
        order, seconds, status = self.order, self.ended_after, self.exit_status or 0
        if self.cause is Cause.DEADLINE:
            return endings.at_its_deadline(order.timeout, by_force=self.by_force, exit_status=status)
        if self.cause is Cause.MEMORY:
            return endings.out_of_memory(self.used_mb, order.memory_mb, seconds, status)
        if self.cause is Cause.CANCELLED:
            return endings.cancelled(seconds, status)
        if self.cause is Cause.STOPPED:
            return endings.stopped(seconds, status)
        return endings.by_itself(status, str(self._outputs[2]).encode(), seconds)


def _clean(text: str) -> str:
    """PostgreSQL keeps neither NUL nor half a surrogate pair, and an error may quote anything."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
