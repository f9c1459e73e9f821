"""Claims on single operations: those with effects outside the database, and those that may kill their process.

A claim takes the place of the lane's lock: while it holds, no drain passes the operation. When its owner is dead or
silent, the operation is given back, and is run again under another token; a late owner's result is refused. So an
external operation runs at least once, and one at a time.
"""

from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from handbell import states
from handbell.common.claims import claim_owner
from handbell.common.codec import decode_arguments, encode_result
from handbell.common.db_retry import write_or_exit
from handbell.common.time_limits import WorkKind, is_told_to_stop, run_limited
from handbell.models import Operation
from handbell.serial import sql
from handbell.serial.apply import describe_failure, find_serial_task


class OperationClaim(NamedTuple):
    """A claim, known by its token. `attempt` counts the claims of the operation, this one included."""

    operation: sql.PendingOperation
    token: int
    attempt: int
    started_at: datetime

    @property
    def is_external(self) -> bool:
        return is_external(self.operation.task)


def is_external(name: str) -> bool:
    task = find_serial_task(name)
    return task is not None and task.external


def claim_operation(operation: sql.PendingOperation, token: int) -> OperationClaim:
    """Claim the operation under this token, in the drain's transaction."""
    now, attempt = timezone.now(), operation.attempts + 1
    Operation.objects.filter(pk=operation.id).update(
        status=states.RUNNING, attempts=attempt, started_at=now, claimed_by=claim_owner(), claim_token=token
    )
    return OperationClaim(operation, token, attempt, now)


def confirm_claim(claim: OperationClaim) -> bool:
    """Under the lane's lock, take the claim up again to complete it; False if it does not hold any more.

    `sql.complete_operations` comes next, which counts the attempt.
    """
    return bool(_claimed(claim.token).update(attempts=claim.attempt - 1))


def release_operations(claimed: QuerySet[Operation], *, crashed: bool) -> set[int]:
    """Have these claimed operations run again; their lanes. A claim has counted as an attempt, and still does if its
    process has crashed.
    """
    lanes = set()
    for pk, lane, token in claimed.filter(status=states.RUNNING).values_list("pk", "lane", "claim_token"):
        _claimed(token).filter(pk=pk).update(
            status=states.QUEUED,
            attempts=F("attempts") - int(not crashed),
            started_at=None,
            claimed_by="",
            claim_token=None,
        )
        lanes.add(lane)
    return lanes


def release_unknown_claim(token: int) -> None:
    """Give back what may have been claimed under this token: the database was away, and has not said."""
    write_or_exit(
        lambda: release_operations(Operation.objects.filter(claim_token=token), crashed=False),
        "That an operation is not run here",
    )


def _claimed(token: int | None) -> QuerySet[Operation]:
    return Operation.objects.filter(claim_token=token, status=states.RUNNING)


def run_external(lane: int, claim: OperationClaim) -> None:
    """Run the function, outside of any transaction, and write its result if the claim still holds."""
    operation = claim.operation
    task = find_serial_task(operation.task)
    assert task is not None, "claim_operation() comes first"
    args, kwargs = decode_arguments(operation.arguments)
    succeeded, failed = [], []
    try:
        result = run_limited(
            WorkKind.OPERATION, operation.id, claim.token, *task.time_limits(), lambda: task.run(*args, **kwargs)
        )
        succeeded.append((operation.id, encode_result(task.name, result)))
    except (Exception, SystemExit) as error:  # (whatever it is, it is the operation's own)
        if is_told_to_stop(error):
            raise
        failed.append(describe_failure(operation, error, blocks=task.blocks))

    def complete() -> None:
        with transaction.atomic():
            sql.lock_lane(lane, wait=True)
            if confirm_claim(claim):
                sql.complete_operations(lane, succeeded, failed, claim.started_at)

    write_or_exit(complete, f"The result of operation {operation.id}")
