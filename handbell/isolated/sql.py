"""The statements of a supervisor: claim what is queued, renew the claims, record the outcomes."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from handbell import states
from handbell.common.doorbell import adapt_datetime
from handbell.common.leases import lease_end
from handbell.isolated.protocol import LaunchOrder, LaunchReport
from handbell.models import Launch

# The states are literals, not parameters, so that both databases see that the partial indexes apply.
_CLAIM = """
    UPDATE handbell_launch SET status = 'running', supervisor = %s, host = %s, started_at = %s, lease_expires_at = %s
    WHERE id IN (SELECT id FROM handbell_launch WHERE status = 'queued' ORDER BY id LIMIT %s {lock})
    RETURNING id, task_id, task, arguments, timeout, grace, memory_mb
"""
_RENEW = """
    UPDATE handbell_launch SET lease_expires_at = %s WHERE supervisor = %s AND status = 'running' RETURNING id
"""
_ENDED = """
    status = {0}status, reason = {0}reason, result = {0}result, traceback = {0}traceback, stdout = {0}stdout,
    stderr = {0}stderr, exit_code = {0}exit_code, pid = {0}pid, started_at = {0}started_at,
    finished_at = {0}finished_at, lease_expires_at = NULL
"""
_FINISH_MANY_POSTGRES = f"""
    UPDATE handbell_launch AS l SET {_ENDED.format("done.")}
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[],
                %s::int[], %s::timestamptz[], %s::timestamptz[])
         AS done(id, status, reason, result, traceback, stdout, stderr, exit_code, pid, started_at, finished_at)
    WHERE l.id = done.id AND l.supervisor = %s AND l.status = 'running'
"""
_FINISH_ONE = """
    UPDATE handbell_launch SET status = %s, reason = %s, result = %s, traceback = %s, stdout = %s, stderr = %s,
           exit_code = %s, pid = %s, started_at = %s, finished_at = %s, lease_expires_at = NULL
    WHERE id = %s AND supervisor = %s AND status = 'running'
"""


def has_queued_launches() -> bool:
    """Whether a launch waits to be claimed."""
    return Launch.objects.filter(status=states.QUEUED).exists()


def claim_launches(supervisor: str, host: str, limit: int) -> list[LaunchOrder]:
    """Make up to `limit` launches the supervisor's, in their order. From here on nobody else starts them."""
    now, lock = timezone.now(), "FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(
            _CLAIM.format(lock=lock), (supervisor, host, adapt_datetime(now), adapt_datetime(lease_end()), limit)
        )
        return sorted(map(LaunchOrder._make, cursor.fetchall()))


def finish_launches(supervisor: str, reports: Sequence[LaunchReport]) -> None:
    """Record the outcomes of launches, except those that the supervisor has lost its claim on."""
    rows = [
        report._replace(started_at=_timestamp(report.started_at), finished_at=_timestamp(report.finished_at))
        for report in reports
    ]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_FINISH_MANY_POSTGRES, (*map(list, zip(*rows, strict=True)), supervisor))
        else:
            cursor.executemany(_FINISH_ONE, [(*row[1:], row.id, supervisor) for row in rows])


def renew_claims(supervisor: str) -> set[int]:
    """Renew the lease of every launch that the supervisor has claimed; which ones these are."""
    with connection.cursor() as cursor:
        cursor.execute(_RENEW, (adapt_datetime(lease_end()), supervisor))
        return {int(row[0]) for row in cursor.fetchall()}


def requeue_launches(supervisor: str, launches: Collection[int]) -> None:
    """Let launches that the supervisor has claimed, and for certain not started, be claimed again."""
    claimed = Launch.objects.filter(supervisor=supervisor, status=states.RUNNING, pk__in=launches)
    claimed.update(status=states.QUEUED, supervisor="", host="", started_at=None, lease_expires_at=None)


def cancel_requests(supervisor: str) -> list[int]:
    """Those of the supervisor's launches that somebody has asked to be cancelled."""
    claimed = Launch.objects.filter(supervisor=supervisor, status=states.RUNNING)
    return list(claimed.filter(cancel_requested=True).values_list("pk", flat=True))


def write_processes(started: dict[int, tuple[int, float]]) -> None:
    """Write the pids and the start times (seconds since the epoch) of launches that run, by their primary keys."""
    rows = [Launch(pk=pk, pid=pid, started_at=_utc(started_at)) for pk, (pid, started_at) in started.items()]
    Launch.objects.bulk_update(rows, ["pid", "started_at"])


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _timestamp(seconds: float) -> Any:
    return adapt_datetime(_utc(seconds))
