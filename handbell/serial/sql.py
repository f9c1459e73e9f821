"""The statements of a drain: lock the lane, read what waits, record the outcomes."""

import logging
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from handbell import states
from handbell.common.doorbell import adapt_datetime
from handbell.conf import conf
from handbell.serial.doorbell import doorbell_name

IDLE_TIMEOUT_MARGIN_SECONDS = 5.0  # for the kill at a time limit to come first
logger = logging.getLogger(__name__)

# The states are literals, not parameters, so that both databases see that the partial index applies.
_WAITING = "lane = %s AND status IN ('queued', 'running') AND not_before IS NULL"
_LANE_CLAIMED = "EXISTS (SELECT 1 FROM handbell_operation WHERE lane = %s AND status = 'running')"
_PENDING = (
    f"SELECT id, task, arguments, attempts, {_LANE_CLAIMED} FROM handbell_operation WHERE {_WAITING} "
    "ORDER BY id LIMIT %s"
)
_HAS_WORK = (
    "SELECT EXISTS (SELECT 1 FROM handbell_operation WHERE "
    f"{_WAITING}) FROM handbell_lane WHERE id = %s AND NOT paused AND blocked_by IS NULL"
)
_NEEDS_DRAIN = (
    "SELECT 1 FROM handbell_doorbell WHERE name = %s AND (rung OR "
    f"EXISTS (SELECT 1 FROM handbell_operation WHERE {_WAITING}))"
)


class PendingOperation(NamedTuple):
    """An operation as the drain reads it. `lane_claimed`: somebody has claimed an operation of this lane, perhaps
    another one, and runs it outside of the lane's lock.
    """

    id: int
    task: str
    arguments: str
    attempts: int
    lane_claimed: bool


class OperationFailure(NamedTuple):
    """What is written of an operation that failed; `blocks` if it holds the lane from then on."""

    id: int
    task: str
    error: str
    traceback: str
    blocks: bool


class LaneLock(Enum):
    """Whether we have the lock of a lane, and may go on with what waits there."""

    OPEN = "it is ours"
    CLOSED = "it is ours, but the lane is paused or blocked"
    BUSY = "somebody else has it"


def lock_lane(lane: int, *, wait: bool = False) -> LaneLock:
    """Take the lane's lock until the end of the transaction. With `wait` it is BUSY only if there is no such lane."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # The database ends the transaction of a process that is frozen, and the lock with it.
            cursor.execute(
                f"SET LOCAL idle_in_transaction_session_timeout = {conf.SERIAL_IDLE_SECONDS * 1000}; "
                "SELECT NOT paused AND blocked_by IS NULL FROM handbell_lane WHERE id = %s FOR UPDATE "
                + ("" if wait else "SKIP LOCKED"),
                (lane,),
            )
        else:  # SQLite: the transaction began with the write lock
            cursor.execute("SELECT NOT paused AND blocked_by IS NULL FROM handbell_lane WHERE id = %s", (lane,))
        found = cursor.fetchone()
    if not found:
        return LaneLock.BUSY
    return LaneLock.OPEN if found[0] else LaneLock.CLOSED


def extend_idle_timeout(seconds: float) -> None:
    """Let this transaction be silent for `seconds` and a little longer, if that is more than `lock_lane` allows."""
    if connection.vendor == "postgresql" and seconds >= conf.SERIAL_IDLE_SECONDS:
        milliseconds = int((seconds + IDLE_TIMEOUT_MARGIN_SECONDS) * 1000)
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}")


def pending_operations(lane: int, limit: int) -> list[PendingOperation]:
    """The first operations that wait in the lane, up to so many, in their order."""
    with connection.cursor() as cursor:
        cursor.execute(_PENDING, (lane, lane, limit))
        return list(map(PendingOperation._make, cursor.fetchall()))


def is_drainable(lane: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_HAS_WORK, (lane, lane))
        found = cursor.fetchone()
    return bool(found and found[0])


def needs_drain(lane: int) -> bool:
    """Whether the lane's doorbell is rung or operations wait. If neither, another drain has done the work already."""
    with connection.cursor() as cursor:
        cursor.execute(_NEEDS_DRAIN, (doorbell_name(lane), lane))
        return cursor.fetchone() is not None


def complete_operations(
    lane: int,
    succeeded: Sequence[tuple[int, str]],
    failed: Sequence[OperationFailure],
    started_at: datetime,
    *,
    failed_as: str = states.FAILED,
) -> None:
    """Write results and failures of a batch; a failure that blocks holds the lane from here on. Failures are logged
    once they are committed.
    """
    began, now = adapt_datetime(started_at), adapt_datetime(timezone.now())
    with connection.cursor() as cursor:
        if succeeded:
            _write_results(cursor, succeeded, began, now)
        for failure in failed:
            cursor.execute(
                "UPDATE handbell_operation SET status = %s, result = %s, traceback = %s, attempts = attempts + 1, "
                "claimed_by = '', claim_token = NULL, started_at = COALESCE(started_at, %s), finished_at = %s "
                "WHERE id = %s",
                (failed_as, failure.error, failure.traceback, began, now, failure.id),
            )
        blocking = next((failure.id for failure in failed if failure.blocks), None)
        cursor.execute("UPDATE handbell_lane SET drained_at = %s, blocked_by = %s WHERE id = %s", (now, blocking, lane))
    if failed:
        transaction.on_commit(partial(_log_failures, lane, failed_as, failed))


def _log_failures(lane: int, failed_as: str, failures: Sequence[OperationFailure]) -> None:
    for it in failures:
        held = f"; lane {lane} is blocked by it" if it.blocks else ""
        logger.error("Operation %s of %s ended as %s%s.\n%s", it.id, it.task, failed_as, held, it.traceback.rstrip())


def _write_results(cursor: Any, succeeded: Sequence[tuple[int, str]], began: Any, now: Any) -> None:
    if connection.vendor == "postgresql":
        ids, results = zip(*succeeded, strict=True)
        cursor.execute(
            "UPDATE handbell_operation AS o SET status = 'succeeded', result = done.result, attempts = attempts + 1, "
            "claimed_by = '', claim_token = NULL, started_at = %s, finished_at = %s "
            "FROM unnest(%s::bigint[], %s::text[]) AS done(id, result) WHERE o.id = done.id",
            (began, now, list(ids), list(results)),
        )
    else:
        cursor.executemany(
            "UPDATE handbell_operation SET status = 'succeeded', result = %s, attempts = attempts + 1, "
            "claimed_by = '', claim_token = NULL, started_at = %s, finished_at = %s WHERE id = %s",
            [(result, began, now, operation) for operation, result in succeeded],
        )
