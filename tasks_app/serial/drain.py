"""Draining a lane: read its operations in order, apply them, write effects and results, commit, and again.

The lane's row is locked from the reading to the commit, in one transaction on one connection. So two drains of a lane
cannot both write, and one that was frozen or cut off cannot write when it comes back: the database has ended its
transaction. On SQLite the write lock, taken when the transaction begins, does the same.
"""

import logging
import time
from collections.abc import Sequence
from enum import Enum

from celery import shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from tasks_app import states
from tasks_app.errors import ProcessDied
from tasks_app.models import LaneCount
from tasks_app.queues import SERIAL
from tasks_app.serial import doorbell, external, ledger
from tasks_app.serial.apply import Applier, Pending, Spoiled, describe, find

SLICE_SECONDS = 1.0  # a drain then makes way for the other lanes
TURN_SECONDS = 0.03  # and a lane for the others that have been rung, after the batch that it is at
BATCH = 2_000
BATCH_SECONDS = 0.2  # applying is cut short here, so that the lock is not held for long
SAVEPOINTS = 60  # PostgreSQL keeps up to 64 subtransactions of a transaction in shared memory
MOST_DEATHS = 3
CLAIM_SECONDS = 3.0  # from claiming an operation that is run with care to having the lock for it
GONE = (OperationalError, InterfaceError)  # the connection, or the transaction, through no fault of an operation
logger = logging.getLogger(__name__)


@shared_task(name=doorbell.DRAIN, queue=SERIAL.name, ignore_result=True)
def drain(lane: int) -> None:
    """Apply what waits in the lane, and then in others whose doorbell has been rung, for about a second in all."""
    end = time.monotonic() + SLICE_SECONDS
    answered = doorbell.answer(lane) if ledger.is_wanted(lane) else doorbell.answer_another()
    try:
        while answered is not None:
            lane = answered.lane
            if Drain(*answered).run(min(end, time.monotonic() + TURN_SECONDS)):
                doorbell.ring(lane)
            answered = doorbell.answer_another() if time.monotonic() < end else None
    except GONE:
        # Nothing was written; the sweeper rings again.
        logger.warning("Lane %s was given up in the middle of a batch; it is taken up again.", lane, exc_info=True)
        connection.close()


class Step(Enum):
    """How a transaction of a drain ended."""

    MORE = "there may be more to do"
    EMPTY = "nothing waits"
    HELD = "somebody else has the lane, or it is paused, blocked, or waits for an owner or a newer worker"


class Drain:
    """One drain of one lane. `deaths` and `careful` are what `doorbell.answer` returned."""

    def __init__(self, lane: int, deaths: int = 0, careful: int = 0) -> None:
        self.lane = lane
        self.deaths = deaths
        # Who died before its first commit may have been killed by an operation: find it by running them one by one.
        # It may as well be alive and on its way to the lock, so nothing worse follows from this number.
        self.careful = careful or (BATCH if deaths > 1 else 0)
        self.alone = False
        # How many operations are to be run under savepoints; twice as many after each batch that was spoiled.
        self.guarded, self.to_guard = 0, SAVEPOINTS
        self.applied = 0

    def run(self, end: float | None = None) -> bool:
        """Apply operations until none waits or the slice is over, at `end` by the monotonic clock; whether there is
        more to do. `applied` counts them.
        """
        end = end or time.monotonic() + SLICE_SECONDS
        step = Step.MORE
        while step is Step.MORE and time.monotonic() < end:
            step = self._step_and_find_the_faulty()
        # Looked up after the lock was let go: whoever found it taken relies on this.
        return step is not Step.HELD and ledger.has_work(self.lane)

    def _step_and_find_the_faulty(self) -> Step:
        """A batch whose rows cannot be written is done again, writing after each operation, so that the faulty one
        fails alone; one that cannot be committed even so, committing after each.
        """
        try:
            return self._step()
        except GONE:
            raise
        except Spoiled:
            self.guarded, self.to_guard = self.to_guard, self.to_guard * 2
            return Step.MORE
        except Exception:
            if self.careful:
                raise
            self.careful = BATCH if self.alone else 0
            self.alone = True
            return Step.MORE

    def _step(self) -> Step:
        with transaction.atomic():
            free = ledger.lock(self.lane)
            if not free:
                if free is None:
                    doorbell.not_dead(self.lane)
                else:
                    self._got_somewhere(0)
                return Step.HELD
            batch = ledger.pending(self.lane, 1 if self.careful else BATCH)
            if not batch or batch[0].held or self._is_left_for_a_newer_worker(batch[0].task):
                self._got_somewhere(0)
                return Step.HELD if batch else Step.EMPTY
            claim = self._apply(self._without_what_runs_by_itself(batch))
        if claim is None:
            return Step.MORE
        if external.is_external(claim.operation.task):
            external.run(self.lane, claim)
        else:
            self._run_alone(claim)
        return Step.MORE

    def _apply(self, batch: Sequence[Pending]) -> external.Claim | None:
        """Apply as much of the batch as fits, or claim its first operation if that is to run by itself."""
        first, done, claim = batch[0], 1, None
        if first.attempts >= MOST_DEATHS:
            self._give_up(first)
        elif external.is_external(first.task):
            claim = external.claim(first)
        elif self.careful:
            done, claim = 0, external.claim(first, CLAIM_SECONDS)
        else:
            done = self._apply_in_memory(batch, alone=self.alone)
        self._got_somewhere(done)
        return claim

    def _run_alone(self, claim: external.Claim) -> None:
        """Run one operation in a transaction of its own. What cannot be committed even so has failed. If the process
        dies here, the claim has counted it: this one, and no other operation, was running.
        """
        try:
            with transaction.atomic():
                ledger.lock(self.lane, wait=True)
                if external.is_still_ours(claim):
                    self._got_somewhere(self._apply_in_memory([claim.operation], alone=True))
        except GONE:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, it is the operation's own)
            task = find(claim.operation.task)
            failure = describe(claim.operation.id, error, blocks=task is not None and task.blocks)
            with transaction.atomic():
                ledger.lock(self.lane, wait=True)
                if external.is_still_ours(claim):
                    ledger.complete(self.lane, [], [failure], claim.started_at)
                    self._got_somewhere(1)

    def _apply_in_memory(self, batch: Sequence[Pending], *, alone: bool) -> int:
        lanes = LaneCount.objects.values_list("count", flat=True).get(pk=1)  # stands still while we have the lock
        applier = Applier(self.lane, lanes, alone=alone, guarded=alone or self.guarded > 0)
        applier.prepare(batch)
        began, end = timezone.now(), time.monotonic() + BATCH_SECONDS
        with applier.watching_queries():
            for number in range(len(batch)):
                failure = applier.apply(number)
                if (failure and failure.blocks) or applier.savepoints >= SAVEPOINTS or time.monotonic() > end:
                    break
            applier.write()
        ledger.complete(self.lane, applier.succeeded, applier.failed, began)
        return number + 1

    def _without_what_runs_by_itself(self, batch: list[Pending]) -> list[Pending]:
        """The batch up to its first operation, after the very first, that is external or left for a newer worker."""
        by_itself = {it.task for it in batch[1:]}
        by_itself = {name for name in by_itself if external.is_external(name) or self._is_left_for_a_newer_worker(name)}
        if not by_itself:
            return batch
        return batch[: next((n for n, it in enumerate(batch) if n and it.task in by_itself), len(batch))]

    def _is_left_for_a_newer_worker(self, task: str) -> bool:
        return settings.SERIAL_UNKNOWN_TASKS == "wait" and find(task) is None

    def _give_up(self, first: Pending) -> None:
        """The process has died each time it came to this operation: fail it, so that the lane goes on."""
        error = ProcessDied(
            f"The process died {MOST_DEATHS} times while it ran this operation, and nothing of it was kept. "
            "See the worker's output, mend the task, then retry the operation."
        )
        failure = describe(first.id, error, blocks=False)
        ledger.complete(self.lane, [], [failure], timezone.now(), failed_as=states.LOST)

    def _got_somewhere(self, done: int) -> None:
        """With this commit the drain does not count as dead any more, and has that much less to be careful about."""
        self.applied += done
        self.guarded = max(0, self.guarded - done)
        if self.deaths or self.careful:
            self.deaths, self.careful = 0, max(0, self.careful - done)
            doorbell.alive(self.lane, self.careful)
