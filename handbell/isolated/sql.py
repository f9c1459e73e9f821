"""The statements of a supervisor: claim what is queued, look at the claims, record the outcomes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from handbell import states
from handbell.common.databases import durable_transaction
from handbell.common.doorbell import adapt_datetime
from handbell.isolated.protocol import LaunchOrder, LaunchReport
from handbell.models import Launch

# The states are literals, not parameters, so that both databases see that the partial indexes apply.
_CLAIM = """
    UPDATE handbell_launch SET status = 'running', claimed_by = %s, claim_token = %s, fork_server = %s, host = %s,
           started_at = %s
    WHERE id IN (SELECT id FROM handbell_launch WHERE status = 'queued' ORDER BY id LIMIT %s {lock})
    RETURNING id, task_id, task, arguments, timeout, grace, memory_mb
"""
_ENDED = """
    status = {0}status, reason = {0}reason, result = {0}result, traceback = {0}traceback, stdout = {0}stdout,
    stderr = {0}stderr, exit_code = {0}exit_code, pid = {0}pid, started_at = {0}started_at,
    finished_at = {0}finished_at, claimed_by = '', claim_token = NULL
"""
_FINISH_MANY_POSTGRES = f"""
    UPDATE handbell_launch AS l SET {_ENDED.format("done.")}
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[],
                %s::int[], %s::timestamptz[], %s::timestamptz[], %s::bigint[])
         AS done(id, status, reason, result, traceback, stdout, stderr, exit_code, pid, started_at, finished_at, token)
    WHERE l.id = done.id AND l.claim_token = done.token AND l.status = 'running'
"""
_FINISH_ONE = """
    UPDATE handbell_launch SET status = %s, reason = %s, result = %s, traceback = %s, stdout = %s, stderr = %s,
           exit_code = %s, pid = %s, started_at = %s, finished_at = %s, claimed_by = '', claim_token = NULL
    WHERE id = %s AND claim_token = %s AND status = 'running'
"""
_ORDER_COLUMNS = LaunchOrder._fields


class Claimant(NamedTuple):
    """Who claims: the id in the registry of owners, the name of its fork server, and its machine."""

    owner: str
    fork_server: str
    host: str


def has_queued_launches() -> bool:
    """Whether a launch waits to be claimed."""
    return Launch.objects.filter(status=states.QUEUED).exists()


def claim_launches(claimant: Claimant, token: int, limit: int) -> list[LaunchOrder]:
    """Claim up to `limit` launches, in their order, under this token. From here on nobody else starts them."""
    lock = "FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    with durable_transaction(), connection.cursor() as cursor:
        now = adapt_datetime(timezone.now())
        cursor.execute(
            _CLAIM.format(lock=lock), (claimant.owner, token, claimant.fork_server, claimant.host, now, limit)
        )
        return sorted(map(LaunchOrder._make, cursor.fetchall()))


def claimed_launches(token: int) -> list[LaunchOrder]:
    """What was claimed under this token, if the answer to the claim was lost."""
    rows = Launch.objects.filter(claim_token=token, status=states.RUNNING).order_by("id")
    return [LaunchOrder(*row) for row in rows.values_list(*_ORDER_COLUMNS)]


def finish_launches(reports: Sequence[tuple[LaunchReport, int]]) -> None:
    """Record the outcomes of launches, each with the token of its claim, except those whose claim does not hold any
    more.
    """
    rows = [
        report._replace(started_at=_timestamp(report.started_at), finished_at=_timestamp(report.finished_at))
        for report, _ in reports
    ]
    tokens = [token for _, token in reports]
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_FINISH_MANY_POSTGRES, (*map(list, zip(*rows, strict=True)), tokens))
        else:
            cursor.executemany(
                _FINISH_ONE, [(*row[1:], row.id, token) for row, token in zip(rows, tokens, strict=True)]
            )


def claims_of(owner: str) -> dict[int, int | None]:
    """The tokens of all launches that this owner has claimed, by their primary keys."""
    claimed = Launch.objects.filter(claimed_by=owner, status=states.RUNNING)
    return dict(claimed.values_list("pk", "claim_token"))


def cancel_requests(owner: str) -> list[int]:
    """Those of this owner's launches that somebody has asked to be cancelled."""
    claimed = Launch.objects.filter(claimed_by=owner, status=states.RUNNING)
    return list(claimed.filter(cancel_requested=True).values_list("pk", flat=True))


def write_processes(started: dict[int, tuple[int, float]]) -> None:
    """Write the pids and the start times (seconds since the epoch) of launches that run, by their primary keys."""
    rows = [Launch(pk=pk, pid=pid, started_at=_utc(started_at)) for pk, (pid, started_at) in started.items()]
    Launch.objects.bulk_update(rows, ["pid", "started_at"])


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _timestamp(seconds: float) -> Any:
    return adapt_datetime(_utc(seconds))
