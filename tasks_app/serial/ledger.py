"""The statements of a drain: lock the lane, read what waits, write what came of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from tasks_app import states
from tasks_app.serial.apply import Failure, Pending
from tasks_app.serial.doorbell import adapted

# The words stand in the statements as they are, so that both databases see that the partial index serves them.
_WAITING = "lane = %s AND status IN ('queued', 'running') AND not_before IS NULL"
_HELD = "EXISTS (SELECT 1 FROM tasks_app_operation WHERE lane = %s AND status = 'running' AND owner_until > %s)"
_PENDING = (
    f"SELECT id, task, arguments, attempts, {_HELD} FROM tasks_app_operation WHERE {_WAITING} ORDER BY id LIMIT %s"
)
_HAS_WORK = (
    "SELECT EXISTS (SELECT 1 FROM tasks_app_operation WHERE "
    f"{_WAITING}) FROM tasks_app_lane WHERE id = %s AND NOT paused AND blocked_by IS NULL"
)
_IS_WANTED = (
    "SELECT 1 FROM tasks_app_doorbell WHERE lane_id = %s AND (rung OR "
    f"EXISTS (SELECT 1 FROM tasks_app_operation WHERE {_WAITING}))"
)


def lock(lane: int, *, wait: bool = False) -> bool | None:
    """Take the lane's lock until the end of the transaction.

    True: it is ours. False: it is, but the lane is paused or blocked. None: somebody else has it, and we did not
    `wait`.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # The database ends the transaction of a process that is frozen, and the lock with it.
            cursor.execute(
                f"SET LOCAL idle_in_transaction_session_timeout = {settings.SERIAL_FROZEN_SECONDS * 1000}; "
                "SELECT NOT paused AND blocked_by IS NULL FROM tasks_app_lane WHERE id = %s FOR UPDATE "
                + ("" if wait else "SKIP LOCKED"),
                (lane,),
            )
        else:  # SQLite: the transaction began with the write lock
            cursor.execute("SELECT NOT paused AND blocked_by IS NULL FROM tasks_app_lane WHERE id = %s", (lane,))
        found = cursor.fetchone()
    return bool(found[0]) if found else None


def pending(lane: int, most: int) -> list[Pending]:
    with connection.cursor() as cursor:
        cursor.execute(_PENDING, (lane, adapted(timezone.now()), lane, most))
        return list(map(Pending._make, cursor.fetchall()))


def has_work(lane: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_HAS_WORK, (lane, lane))
        found = cursor.fetchone()
    return bool(found and found[0])


def is_wanted(lane: int) -> bool:
    """Whether anything is to be done about a doorbell. If not, another drain has answered it already."""
    with connection.cursor() as cursor:
        cursor.execute(_IS_WANTED, (lane, lane))
        return cursor.fetchone() is not None


def complete(
    lane: int,
    succeeded: Sequence[tuple[int, str]],
    failed: Sequence[Failure],
    started_at: datetime,
    *,
    failed_as: str = states.FAILED,
) -> None:
    """Write results and failures of a batch; a failure that blocks holds the lane from here on."""
    began, now = adapted(started_at), adapted(timezone.now())
    with connection.cursor() as cursor:
        if succeeded:
            _write_results(cursor, succeeded, began, now)
        for failure in failed:
            cursor.execute(
                "UPDATE tasks_app_operation SET status = %s, result = %s, traceback = %s, attempts = attempts + 1, "
                "owner_until = NULL, started_at = COALESCE(started_at, %s), finished_at = %s WHERE id = %s",
                (failed_as, failure.error, failure.traceback, began, now, failure.id),
            )
        blocking = next((failure.id for failure in failed if failure.blocks), None)
        cursor.execute(
            "UPDATE tasks_app_lane SET drained_at = %s, blocked_by = %s WHERE id = %s", (now, blocking, lane)
        )


def _write_results(cursor: Any, succeeded: Sequence[tuple[int, str]], began: Any, now: Any) -> None:
    if connection.vendor == "postgresql":
        ids, results = zip(*succeeded, strict=True)
        cursor.execute(
            "UPDATE tasks_app_operation AS o SET status = 'succeeded', result = done.result, attempts = attempts + 1, "
            "owner_until = NULL, started_at = %s, finished_at = %s "
            "FROM unnest(%s::bigint[], %s::text[]) AS done(id, result) WHERE o.id = done.id",
            (began, now, list(ids), list(results)),
        )
    else:
        cursor.executemany(
            "UPDATE tasks_app_operation SET status = 'succeeded', result = %s, attempts = attempts + 1, "
            "owner_until = NULL, started_at = %s, finished_at = %s WHERE id = %s",
            [(result, began, now, operation) for operation, result in succeeded],
        )
