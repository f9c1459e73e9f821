"""Operations that were interrupted: at their time limit, or because their worker stops. Neither counts as a crash."""

import logging

from celery.exceptions import TimeLimitExceeded
from django.db import Error, connection, transaction
from django.utils import timezone

from handbell import states
from handbell.common.outages import retry_through_outage
from handbell.common.time_limits import RunningWork, WorkKind, running_work
from handbell.models import Operation
from handbell.serial import doorbell, sql
from handbell.serial.apply import describe_failure, find_serial_task

logger = logging.getLogger(__name__)


def fail_at_time_limit(work: RunningWork) -> None:
    """Fail the operation that a process ran which was killed at the time limit, and let its lane go on."""
    error = TimeLimitExceeded(work.allowed_seconds)
    try:
        retry_through_outage(lambda: fail_interrupted(work.id, work.attempt, error))
    except Error:
        logger.exception("Operation %s was ended at its time limit, and runs again: that could not be stored.", work.id)
    finally:
        connection.close()  # that of a thread


def fail_interrupted(operation_id: int, attempt: int, error: BaseException) -> None:
    """Fail an operation, unless another process has applied it, or tries to, and let its lane go on."""
    with transaction.atomic():
        found = Operation.objects.filter(pk=operation_id, attempts=attempt, status__in=states.UNFINISHED).values_list(
            "lane", "task", "arguments", "attempts"
        )
        for lane, name, arguments, attempts in found:
            sql.lock_lane(lane, wait=True)
            if not found.filter(lane=lane).exists():
                return  # another process has done it meanwhile
            operation = sql.PendingOperation(operation_id, name, arguments, attempts, lane_claimed=False)
            task = find_serial_task(name)
            failure = describe_failure(operation, error, blocks=task is not None and task.blocks)
            found.filter(status=states.RUNNING).update(attempts=attempts - 1)  # its claim has counted this attempt
            sql.complete_operations(lane, [], [failure], timezone.now())
            doorbell.reset_crashes(lane, 0)
            doorbell.ring_lanes_after_commit([lane])


def release_running_operations() -> None:
    """When this worker leaves, and its processes are gone: give back what they ran."""
    try:
        for work in running_work(WorkKind.OPERATION):
            lane = Operation.objects.filter(pk=work.id).values_list("lane", flat=True).first()
            if lane is not None:
                claimed = Operation.objects.filter(pk=work.id, attempts=work.attempt, status=states.RUNNING)
                claimed.update(status=states.QUEUED, attempts=work.attempt - 1, lease_expires_at=None, started_at=None)
                doorbell.uncount_crash(lane)
    except Error as error:
        logger.warning("The database was not told that this worker leaves its lanes: %s", str(error).strip())
