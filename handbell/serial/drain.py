"""Draining a lane: read its operations in order, apply them, write effects and results, commit, and repeat.

The lane's row is locked from the reading to the commit, in one transaction on one connection. So two drains of a lane
cannot both write, and one that was frozen or cut off cannot write when it comes back: the database has ended its
transaction. On SQLite the write lock, taken when the transaction begins, does the same.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum

from celery import shared_task
from django.db import Error, connection, transaction
from django.utils import timezone

from handbell import states
from handbell.common.claims import new_claim_token
from handbell.common.connections import close_connections
from handbell.common.doorbell import NO_LIMIT_SECONDS
from handbell.common.outages import is_outage
from handbell.conf import conf
from handbell.errors import ProcessDied
from handbell.models import LaneCount
from handbell.serial import doorbell, sql
from handbell.serial.apply import (
    BatchApplier,
    OperationInterrupted,
    TransactionSpoiled,
    describe_failure,
    find_serial_task,
)
from handbell.serial.claim import (
    OperationClaim,
    claim_operation,
    confirm_claim,
    is_external,
    release_unknown_claim,
    run_external,
)
from handbell.serial.interrupted import fail_interrupted
from handbell.serial.modes import Mode
from handbell.serial.sql import PendingOperation

SLICE_SECONDS = 1.0  # how long one message drains lanes: the worker has other messages waiting
TURN_SECONDS = 0.03  # how long one lane is drained, to the end of its batch, before the next that was rung has its turn
MAX_BATCH_OPERATIONS = 2_000
MAX_BATCH_SECONDS = 0.2  # applying is cut short here, so that the lock is not held for long
MAX_SAVEPOINTS = 60  # in a transaction: PostgreSQL keeps up to 64 subtransactions in shared memory
MAX_CRASHES = 3  # processes that one operation may cost before it is given up
logger = logging.getLogger(__name__)


@shared_task(name=doorbell.DRAIN, ignore_result=True, time_limit=NO_LIMIT_SECONDS, soft_time_limit=NO_LIMIT_SECONDS)
def drain(lane: int) -> None:
    """Apply what waits in the lane, and then in others whose doorbell has been rung, for about a second in all."""
    end = time.monotonic() + SLICE_SECONDS
    answered = doorbell.answer(lane) if sql.needs_drain(lane) else doorbell.answer_another()
    try:
        while answered is not None:
            lane = answered.lane
            if LaneDrain(*answered).run(min(end, time.monotonic() + TURN_SECONDS)):
                doorbell.lane_doorbell(lane).ring()
            answered = doorbell.answer_another() if time.monotonic() < end else None
    except Error as error:
        if not is_outage(error):
            raise
        # Nothing of the batch was written; the sweeper rings again.
        logger.warning(
            "Lane %s: the drain broke off in the middle of a batch. It is resumed soon.", lane, exc_info=True
        )
        connection.close()
        with suppress(Error):  # it is no crash; if this cannot be said, the process counts as one when it dies
            doorbell.leave(lane)


class StepOutcome(Enum):
    """How a transaction of a drain ended."""

    MORE = "there may be more to do"
    EMPTY = "nothing waits"
    HELD = "somebody else has the lane, or it is paused, blocked, or waits for an owner or a newer worker"


class LaneDrain:
    """One drain of one lane. `crash_count` and `one_by_one` are what `doorbell.answer` returned; `applied` counts the
    operations that it has finished.
    """

    def __init__(self, lane: int, crash_count: int = 0, one_by_one: int = 0) -> None:
        self.lane = lane
        self.has_committed = False
        # A drain that crashed before its first commit may have been killed by an operation: find that one by running
        # them one by one.
        self.one_by_one = one_by_one or (MAX_BATCH_OPERATIONS if crash_count else 0)
        self.writes_each = False
        # How many operations are to be run with savepoints; twice as many after each transaction that was spoiled.
        self.with_savepoints, self.next_with_savepoints = 0, MAX_SAVEPOINTS
        self.applied = 0
        self.claim_token: int | None = None  # of an operation that we have claimed, or may have

    def run(self, end: float | None = None) -> bool:
        """Apply operations until none waits, or until `end` by the monotonic clock, by default in a second; whether
        there is more to do.
        """
        end = end or time.monotonic() + SLICE_SECONDS
        outcome = StepOutcome.MORE
        try:
            while outcome is StepOutcome.MORE and time.monotonic() < end:
                outcome = self._step_or_fall_back()
        except Error:
            if self.claim_token is not None:
                connection.close()
                release_unknown_claim(self.claim_token)
            raise
        # This look comes after the lock was released: another drain that found it taken has left, and relies on it.
        return outcome is not StepOutcome.HELD and sql.is_drainable(self.lane)

    def _mode(self, task: str) -> Mode:
        if is_external(task):
            return Mode.EXTERNAL
        if self.one_by_one:
            return Mode.ONE_BY_ONE
        if self.writes_each:
            return Mode.WRITE_EACH
        return Mode.SAVEPOINTS if self.with_savepoints else Mode.BATCH

    def _step_or_fall_back(self) -> StepOutcome:
        """Do one transaction. If it fails, a more cautious mode follows, in which the faulty operation fails alone."""
        try:
            return self._step()
        except OperationInterrupted as interrupted:
            close_connections()
            fail_interrupted(interrupted.operation_id, interrupted.claim_token, interrupted.error)
        except TransactionSpoiled:
            self.with_savepoints, self.next_with_savepoints = self.next_with_savepoints, self.next_with_savepoints * 2
        except Exception as error:
            if self.one_by_one or is_outage(error):
                raise
            self.one_by_one = MAX_BATCH_OPERATIONS if self.writes_each else 0
            self.writes_each = True
        return StepOutcome.MORE

    def _step(self) -> StepOutcome:
        with transaction.atomic():
            lock = sql.lock_lane(self.lane)
            if lock is sql.LaneLock.BUSY:
                doorbell.leave(self.lane)
                return StepOutcome.HELD
            if lock is sql.LaneLock.CLOSED:
                self._note_progress(0)
                return StepOutcome.HELD
            batch = sql.pending_operations(self.lane, 1 if self.one_by_one else MAX_BATCH_OPERATIONS)
            if not batch or batch[0].lane_claimed or self._is_left_for_a_newer_worker(batch[0].task):
                self._note_progress(0)
                return StepOutcome.HELD if batch else StepOutcome.EMPTY
            claim = self._apply_or_claim(self._up_to_what_runs_separately(batch))
        if claim is not None and claim.is_external:
            run_external(self.lane, claim)
        elif claim is not None:
            self._run_claimed(claim)
        self.claim_token = None
        return StepOutcome.MORE

    def _apply_or_claim(self, batch: Sequence[PendingOperation]) -> OperationClaim | None:
        """Apply as much of the batch as fits, or claim its first operation if that is to run separately."""
        first, done, claim = batch[0], 1, None
        mode = self._mode(first.task)
        if first.attempts >= MAX_CRASHES:
            self._give_up(first)
            self.one_by_one = 1  # this was the one
        elif mode.claims_first:
            self.claim_token = new_claim_token()
            claim = claim_operation(first, self.claim_token)
            done = 1 if mode is Mode.EXTERNAL else 0
        else:
            done = self._apply_batch(batch, mode)
        self._note_progress(done)
        return claim

    def _run_claimed(self, claim: OperationClaim) -> None:
        """Run one operation in a transaction of its own. If that cannot be committed, the operation has failed. If the
        process crashes here, the claim has counted it: this operation, and no other, was running.
        """
        try:
            with transaction.atomic():
                sql.lock_lane(self.lane, wait=True)
                if confirm_claim(claim):
                    if claim.attempt > 1:
                        self.one_by_one = 1  # this was the one that had killed somebody
                    self._note_progress(self._apply_batch([claim.operation], Mode.ONE_BY_ONE, claim.token))
        except Exception as error:  # (whatever it is, it is the operation's own)
            if is_outage(error):
                raise
            task = find_serial_task(claim.operation.task)
            failure = describe_failure(claim.operation, error, blocks=task is not None and task.blocks)
            with transaction.atomic():
                sql.lock_lane(self.lane, wait=True)
                if confirm_claim(claim):
                    sql.complete_operations(self.lane, [], [failure], claim.started_at)
                    self._note_progress(1)

    def _apply_batch(self, batch: Sequence[PendingOperation], mode: Mode, claim_token: int = 0) -> int:
        lanes = LaneCount.objects.values_list("count", flat=True).get(pk=1)  # does not change while we hold the lock
        applier = BatchApplier(self.lane, lanes, mode, claim_token)
        applier.prepare(batch)
        started_at, end = timezone.now(), time.monotonic() + MAX_BATCH_SECONDS
        with applier.watching_queries():
            for number in range(len(batch)):
                failure = applier.apply(number)
                if (failure and failure.blocks) or applier.savepoints >= MAX_SAVEPOINTS or time.monotonic() > end:
                    break
            applier.write()
        sql.complete_operations(self.lane, applier.succeeded, applier.failed, started_at)
        return number + 1

    def _up_to_what_runs_separately(self, batch: list[PendingOperation]) -> list[PendingOperation]:
        """The batch up to its first operation, after the very first, that is external or left for a newer worker."""
        names = {operation.task for operation in batch[1:]}
        names = {name for name in names if is_external(name) or self._is_left_for_a_newer_worker(name)}
        if not names:
            return batch
        ends = (number for number, operation in enumerate(batch) if number and operation.task in names)
        return batch[: next(ends, len(batch))]

    def _is_left_for_a_newer_worker(self, task: str) -> bool:
        return conf.SERIAL_UNKNOWN_TASKS == "wait" and find_serial_task(task) is None

    def _give_up(self, first: PendingOperation) -> None:
        """The process has crashed each time it came to this operation: fail it, so that the lane goes on."""
        error = ProcessDied(
            f"The process died {MAX_CRASHES} times while it ran this operation, and nothing of it was kept. "
            "See the worker's output, fix the task, then retry the operation."
        )
        failure = describe_failure(first, error, blocks=False)
        sql.complete_operations(self.lane, [], [failure], timezone.now(), failed_as=states.LOST)

    def _note_progress(self, done: int) -> None:
        """Note, with this commit, that nothing has killed the drain, and how many operations it has finished."""
        self.applied += done
        self.with_savepoints = max(0, self.with_savepoints - done)
        if not self.has_committed or self.one_by_one:
            self.has_committed, self.one_by_one = True, max(0, self.one_by_one - done)
            doorbell.note_commit(self.lane, self.one_by_one)
