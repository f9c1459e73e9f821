"""Claims on single operations: those with effects outside the database, and those that may kill their process.

A claim with an expiry takes the place of the lane's lock: while it holds, no drain passes the operation. Its owner
renews it. When the owner has crashed, the claim expires and the operation is run again, with a higher attempt number; a
late owner's result is refused. So an external operation runs at least once, and one at a time.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from handbell import states
from handbell.common.codec import decode_arguments, encode_result
from handbell.common.heartbeat import heartbeat
from handbell.common.leases import lease, lease_end, renewal_seconds
from handbell.common.time_limits import WorkKind, is_told_to_stop, run_limited
from handbell.models import Operation
from handbell.serial import sql
from handbell.serial.apply import describe_failure, find_serial_task


class OperationClaim(NamedTuple):
    """A claim, known by its attempt and by when it was made."""

    operation: sql.PendingOperation
    attempt: int
    started_at: datetime

    @property
    def is_external(self) -> bool:
        return is_external(self.operation.task)


def is_external(name: str) -> bool:
    task = find_serial_task(name)
    return task is not None and task.external


def claim_operation(operation: sql.PendingOperation, seconds: float | None = None) -> OperationClaim:
    """Claim the operation, in the drain's transaction, for so many seconds; by default for the length of a lease."""
    now, attempt = timezone.now(), operation.attempts + 1
    Operation.objects.filter(pk=operation.id).update(
        status=states.RUNNING,
        attempts=attempt,
        started_at=now,
        lease_expires_at=now + (lease() if seconds is None else timedelta(seconds=seconds)),
    )
    return OperationClaim(operation, attempt, now)


def confirm_claim(claim: OperationClaim) -> bool:
    """Under the lane's lock, take the claim up again to complete it; False if somebody else has claimed it since.

    `sql.complete_operations` comes next, which counts the attempt.
    """
    return bool(_claimed(claim).update(attempts=claim.attempt - 1))


def _claimed(claim: OperationClaim) -> QuerySet[Operation]:
    # The attempt is not enough: after a retry they are counted from zero again.
    return Operation.objects.filter(
        pk=claim.operation.id, attempts=claim.attempt, started_at=claim.started_at, status=states.RUNNING
    )


def run_external(lane: int, claim: OperationClaim) -> None:
    """Run the function, outside of any transaction, and write its result if nobody else has claimed it meanwhile."""
    operation = claim.operation
    task = find_serial_task(operation.task)
    assert task is not None, "claim_operation() comes first"
    args, kwargs = decode_arguments(operation.arguments)
    succeeded, failed = [], []
    with heartbeat(renewal_seconds(), lambda: _claimed(claim).update(lease_expires_at=lease_end())):
        try:
            result = run_limited(
                WorkKind.OPERATION, operation.id, claim.attempt, *task.time_limits(), lambda: task.run(*args, **kwargs)
            )
            succeeded.append((operation.id, encode_result(task.name, result)))
        except (Exception, SystemExit) as error:  # (whatever it is, it is the operation's own)
            if is_told_to_stop(error):
                raise
            failed.append(describe_failure(operation, error, blocks=task.blocks))
    with transaction.atomic():
        sql.lock_lane(lane, wait=True)
        if confirm_claim(claim):
            sql.complete_operations(lane, succeeded, failed, claim.started_at)
