"""The processes of one launch, as its fork server sees them: what they print, how long they may run, how they ended."""

import os
import selectors
import signal
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path

from handbell.common import procfs
from handbell.common.codec import storable
from handbell.common.procfs import ProcessIdentity
from handbell.isolated import cgroups, outcomes
from handbell.isolated.child import MAX_RESULT_CHARACTERS
from handbell.isolated.output import CapturedOutput
from handbell.isolated.protocol import LaunchOrder, LaunchReport

PIPE_READ_BYTES = 65536
MAX_LAST_READS = 16  # of so many bytes: together, more than a pipe holds
MAX_MEMBERS_KILLED_ONE_BY_ONE = 16
MAX_KILL_SECONDS = 5.0  # what is still there then cannot be killed yet


class Phase(Enum):
    """How far it is."""

    RUNNING = "it may run"
    TERMINATING = "it was sent TERM, and has a moment to obey"
    KILLING = "whatever is left of it is killed"


class EndCause(Enum):
    """Why it is ended from outside."""

    DEADLINE = "deadline"
    MEMORY = "memory"
    PROCESSES = "processes"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


class ProcessTree:
    """A launch from its fork to the end of everything that it started.

    `pipes` are the read ends of its standard output, its standard error and its outcome, which comes after `mark`.
    `group` is its control group, if it has one. Times without `_at` in their
    name are of the monotonic clock.
    """

    def __init__(
        self,
        order: LaunchOrder,
        pid: int,
        pipes: tuple[int, int, int],
        max_output_bytes: int,
        mark: bytes,
        group: Path | None,
    ) -> None:
        self.order, self.pid, self.mark, self.group = order, pid, mark, group
        self.started, self.started_at = time.monotonic(), time.time()
        self.deadline = self.started + order.timeout
        self.phase = Phase.RUNNING
        self.end_cause: EndCause | None = None
        self.was_killed = False
        self.exit_status: int | None = None  # of its own process, once that is reaped
        self.used_mb = 0.0
        self.process_count = 0  # when it was ended because there were too many
        self.ended_after_seconds = 0.0
        self.due = self.deadline  # when the fork server is to look at it again
        self.start_reported = False
        self.members: set[ProcessIdentity] = set()  # those that it has started, apart from its own process
        self.killing_since = 0.0
        self._pipes = pipes
        self._outputs = (
            CapturedOutput(max_output_bytes),
            CapturedOutput(max_output_bytes),
            CapturedOutput(2 * MAX_RESULT_CHARACTERS),
        )

    # --- What it prints ------------------------------------------------------------------------------------------

    def register_pipes(self, selector: selectors.BaseSelector) -> None:
        """Have `selector` watch its pipes, each with (this object, the pipe's index) as data."""
        for index, pipe in enumerate(self._pipes):
            os.set_blocking(pipe, False)
            selector.register(pipe, selectors.EVENT_READ, (self, index))

    def read_pipe(self, selector: selectors.BaseSelector, index: int) -> None:
        """Take what is there; no more than a part at a time, so that one that prints does not hold up the others."""
        pipe = self._pipes[index]
        with suppress(BlockingIOError):
            part = os.read(pipe, PIPE_READ_BYTES)
            self._outputs[index].add(part)
            if not part:
                selector.unregister(pipe)

    def close_pipes(self, selector: selectors.BaseSelector) -> None:
        """Take what is left, as much as fits into a pipe; who else may hold the other end does not matter."""
        for index, pipe in enumerate(self._pipes):
            with suppress(BlockingIOError):
                for _ in range(MAX_LAST_READS):
                    if not (part := os.read(pipe, PIPE_READ_BYTES)):
                        break
                    self._outputs[index].add(part)
            with suppress(KeyError):
                selector.unregister(pipe)
            os.close(pipe)

    # --- How it ends ---------------------------------------------------------------------------------------------

    def end(self, cause: EndCause | None, now: float) -> None:
        """Begin to end it: with TERM and a grace, or at once if it uses too much memory, or if there is no cause
        because the supervisor has ended.
        """
        if self.phase is not Phase.RUNNING:
            return
        self.end_cause, self.ended_after_seconds = cause, now - self.started
        if cause in {EndCause.MEMORY, EndCause.PROCESSES, None}:
            self._begin_killing(now)
        else:
            grace = self.order.grace
            late = now - self.deadline if cause is EndCause.DEADLINE else 0.0
            self.phase, self.due = Phase.TERMINATING, now + max(grace - late, grace / 2)
            self._signal_all(signal.SIGTERM)

    def note_exit(self, status: int, now: float) -> None:
        """Its own process has ended and is reaped; what it started is killed, once an ongoing grace is over."""
        self.exit_status = status
        if self.phase is Phase.RUNNING:
            self.ended_after_seconds = now - self.started
        if self.phase is not Phase.KILLING and not (self.phase is Phase.TERMINATING and self.members):
            self._begin_killing(now)

    def kill_rest(self, now: float) -> None:
        """Kill whatever is still there when the grace is over, or after."""
        if self.phase is Phase.TERMINATING:
            self.was_killed = True
            self._begin_killing(now)
        if self.group is not None:
            cgroups.kill(self.group)
        elif len(self.members) > MAX_MEMBERS_KILLED_ONE_BY_ONE:
            self._signal_all(signal.SIGSTOP)  # first, so that none of them starts others meanwhile
        self._signal_all(signal.SIGKILL)

    def is_gone(self, now: float) -> bool:
        """Whether nothing is left of it; or what is left cannot be killed, because the kernel is busy with it."""
        if self.exit_status is None:
            return False
        is_empty = not self.members and not (self.group and cgroups.pids_in(self.group))
        return is_empty or now - self.killing_since > MAX_KILL_SECONDS

    def _begin_killing(self, now: float) -> None:
        self.phase, self.due, self.killing_since = Phase.KILLING, now, now

    def _signal_all(self, number: signal.Signals) -> None:
        if self.exit_status is None:  # not reaped, so its number is still its own; and so is its group's
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            os.kill(self.pid, number)  # the group may be another one by now, or not there yet
        for process in self.members:
            procfs.signal_process(number, process)

    # --- Its outcome ---------------------------------------------------------------------------------------------

    def report(self) -> LaunchReport:
        """Its outcome, for the supervisor."""
        outcome = self._outcome()
        left = len(self.members)
        reason = outcome.reason + (f"; {left} of its processes could not be killed yet" if left else "")
        stdout, stderr, _ = self._outputs
        return LaunchReport(
            id=self.order.id,
            status=outcome.status,
            reason=storable(reason),
            result=outcome.result,
            traceback=outcome.traceback and storable(outcome.traceback),
            stdout=str(stdout),
            stderr=str(stderr),
            exit_code=outcome.exit_code,
            pid=self.pid,
            started_at=self.started_at,
            finished_at=self.started_at + time.monotonic() - self.started,
        )

    def _outcome(self) -> outcomes.LaunchOutcome:
        order, seconds, status = self.order, self.ended_after_seconds, self.exit_status or 0
        if self.end_cause is EndCause.DEADLINE:
            return outcomes.timed_out(order.timeout, was_killed=self.was_killed, exit_status=status)
        if self.end_cause is EndCause.MEMORY:
            return outcomes.out_of_memory(self.used_mb, order.memory_mb, seconds, status)
        if self.end_cause is EndCause.PROCESSES:
            return outcomes.too_many_processes(self.process_count, seconds, status)
        if self.end_cause is EndCause.CANCELLED:
            return outcomes.cancelled(seconds, status)
        if self.end_cause is EndCause.STOPPED:
            return outcomes.stopped(seconds, status)
        return self._outcome_of_its_own(seconds, status)

    def _outcome_of_its_own(self, seconds: float, status: int) -> outcomes.LaunchOutcome:
        """Nobody here has ended it; but the kernel may have."""
        if self.group is not None and cgroups.was_out_of_memory(self.group):
            return outcomes.out_of_memory(self.order.memory_mb, self.order.memory_mb, seconds, status)
        return outcomes.ended_by_itself(status, self._outputs[2].end_after(self.mark), seconds)
