"""The statements of a supervisor: claim what waits, renew the claims, write what came of them."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from tasks_app import states
from tasks_app.isolated.messages import Ending, Order
from tasks_app.models import Launch

# The words stand in the statements as they are, so that both databases see that the partial index serves them.
_CLAIM = """
    UPDATE tasks_app_launch SET status = 'running', supervisor = %s, host = %s, started_at = %s, owner_until = %s
    WHERE id IN (SELECT id FROM tasks_app_launch WHERE status = 'queued' ORDER BY id LIMIT %s {lock})
    RETURNING id, task_id, task, arguments, timeout, grace, memory_mb
"""
_RENEW = """
    UPDATE tasks_app_launch SET owner_until = %s WHERE supervisor = %s AND status = 'running' RETURNING id
"""
_ENDED = """
    status = {0}status, reason = {0}reason, result = {0}result, traceback = {0}traceback, stdout = {0}stdout,
    stderr = {0}stderr, exit_code = {0}exit_code, pid = {0}pid, started_at = {0}started_at,
    finished_at = {0}finished_at, owner_until = NULL
"""
_FINISH_MANY_POSTGRES = f"""
    UPDATE tasks_app_launch AS l SET {_ENDED.format("done.")}
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[],
                %s::int[], %s::timestamptz[], %s::timestamptz[])
         AS done(id, status, reason, result, traceback, stdout, stderr, exit_code, pid, started_at, finished_at)
    WHERE l.id = done.id AND l.supervisor = %s AND l.status = 'running'
"""
_FINISH_ONE = """
    UPDATE tasks_app_launch SET status = %s, reason = %s, result = %s, traceback = %s, stdout = %s, stderr = %s,
           exit_code = %s, pid = %s, started_at = %s, finished_at = %s, owner_until = NULL
    WHERE id = %s AND supervisor = %s AND status = 'running'
"""


def waiting() -> bool:
    """Whether a launch waits to be claimed."""
    return Launch.objects.filter(status=states.QUEUED).exists()


def claim(supervisor: str, host: str, most: int) -> list[Order]:
    """Make up to `most` launches ours, in their order. From here on nobody starts them a second time."""
    now, lock = timezone.now(), "FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM.format(lock=lock), (supervisor, host, _adapted(now), _adapted(now + lease()), most))
        return sorted(map(Order._make, cursor.fetchall()))


def finish(supervisor: str, endings: Sequence[Ending]) -> None:
    """Write what came of launches that are still ours."""
    rows = [
        ending._replace(started_at=_moment(ending.started_at), finished_at=_moment(ending.finished_at))
        for ending in endings
    ]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_FINISH_MANY_POSTGRES, (*map(list, zip(*rows, strict=True)), supervisor))
        else:
            cursor.executemany(_FINISH_ONE, [(*row[1:], row.id, supervisor) for row in rows])


def renew(supervisor: str) -> set[int]:
    """Renew every claim; the launches that are still ours."""
    with connection.cursor() as cursor:
        cursor.execute(_RENEW, (_adapted(timezone.now() + lease()), supervisor))
        return {int(row[0]) for row in cursor.fetchall()}


def give_back(supervisor: str, launches: Collection[int]) -> None:
    """Let launches that we claimed, and for certain have not started, be claimed again."""
    ours = Launch.objects.filter(supervisor=supervisor, status=states.RUNNING, pk__in=launches)
    ours.update(status=states.QUEUED, supervisor="", host="", started_at=None, owner_until=None)


def to_be_cancelled(supervisor: str) -> list[int]:
    ours = Launch.objects.filter(supervisor=supervisor, status=states.RUNNING)
    return list(ours.filter(cancel_requested=True).values_list("pk", flat=True))


def note_processes(started: dict[int, tuple[int, float]]) -> None:
    """Write where launches run that have been running for a while: the process and when it began."""
    rows = [Launch(pk=pk, pid=pid, started_at=_utc(began)) for pk, (pid, began) in started.items()]
    Launch.objects.bulk_update(rows, ["pid", "started_at"])


def lease() -> timedelta:
    return timedelta(seconds=settings.LAUNCH_LEASE_SECONDS)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _moment(seconds: float) -> Any:
    return _adapted(_utc(seconds))


def _adapted(moment: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(moment)
