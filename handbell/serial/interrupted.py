"""Operations that were interrupted: at their time limit, or because their worker stops, neither of which counts as a
crash; and by the death of their process, which does.
"""

import logging
from collections.abc import Collection, Iterable

from celery.exceptions import TimeLimitExceeded
from django.db import Error, connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from handbell import states
from handbell.common.outages import retry_through_outage
from handbell.common.time_limits import RunningWork
from handbell.models import Operation
from handbell.models.owner import rows_claimed_by
from handbell.serial import doorbell, sql
from handbell.serial.apply import describe_failure, find_serial_task
from handbell.serial.claim import release_operations

logger = logging.getLogger(__name__)


def fail_at_time_limit(work: RunningWork) -> None:
    """Fail the operation that a process ran which was killed at the time limit, and let its lane go on."""
    error = TimeLimitExceeded(work.allowed_seconds)
    try:
        retry_through_outage(lambda: fail_interrupted(work.id, work.claim_token, error))
    except Error:
        logger.exception("Operation %s was ended at its time limit, and runs again: that could not be stored.", work.id)
    finally:
        connection.close()  # that of a thread


def fail_interrupted(operation_id: int, claim_token: int, error: BaseException) -> None:
    """Fail an operation that was claimed under this token, or ran under the lane's lock, unless another process has
    applied it, or tries to; and let its lane go on.
    """
    with transaction.atomic():
        found = Operation.objects.filter(
            pk=operation_id, claim_token=claim_token or None, status__in=states.UNFINISHED
        ).values_list("lane", "task", "arguments", "attempts")
        for lane, name, arguments, attempts in found:
            sql.lock_lane(lane, wait=True)
            if not found.filter(lane=lane).exists():
                return  # another process has done it meanwhile
            operation = sql.PendingOperation(operation_id, name, arguments, attempts, lane_claimed=False)
            task = find_serial_task(name)
            failure = describe_failure(operation, error, blocks=task is not None and task.blocks)
            found.filter(status=states.RUNNING).update(attempts=attempts - 1)  # its claim has counted this attempt
            sql.complete_operations(lane, [], [failure], timezone.now())
            doorbell.note_commit(lane, 0)
            doorbell.ring_lanes_after_commit([lane])


def operation_owners() -> Iterable[str]:
    """By whom operations are claimed, and lanes are drained."""
    running = running_operations().order_by().values_list("claimed_by", flat=True).distinct()
    return [*running, *doorbell.drain_owners()]


def running_operations() -> QuerySet[Operation]:
    """Those that somebody has claimed."""
    return Operation.objects.filter(status=states.RUNNING)


def release_claimed_operations(owner: str, tokens: Collection[int] | None = None) -> None:
    """When this worker leaves, and its processes are gone: give back what they ran; or what was claimed under these
    tokens.
    """
    lanes = release_operations(rows_claimed_by(Operation.objects.all(), owner, tokens), crashed=False)
    if tokens is None:
        doorbell.release_drains(owner)
    doorbell.ring_lanes_after_commit(lanes)


def recover_operations(owner: str) -> None:
    """Give back what was claimed by a process that is dead, or by all processes of a worker that is."""
    doorbell.count_crashes(owner)
    lanes = release_operations(rows_claimed_by(Operation.objects.all(), owner), crashed=True)
    doorbell.ring_lanes_after_commit(lanes)
