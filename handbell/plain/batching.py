"""Several calls per claim, and several results per commit, for quick tasks that allow it: `@shared_task(claims=100)`.

One doorbell wakes a process, which claims up to that many calls at once, rings for another process if there may be
more, and runs them one after the other (`handbell.celery.batch`). If it dies while it runs one of them, each of those
that have no result yet runs again alone, with a message of its own.
"""

import mmap
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from handbell.common.doorbell import DoorbellMessage, adapt_datetime
from handbell.common.outages import retry_through_outage
from handbell.common.worker_id import child_claimant
from handbell.models import Call, Doorbell
from handbell.plain.message import Message
from handbell.plain.sql import ASYNC_COMMIT, FINAL_STATES, RESULTS_TABLE

RUN_BATCH = "handbell.run_batch"
BATCH_DOORBELL_PREFIX = "task:"
RING_AFTER = timedelta(seconds=1)  # a call that has waited for so long: its doorbell may not have been rung

_REVOCATIONS = struct.Struct("=q")
_revocations = mmap.mmap(-1, _REVOCATIONS.size)  # memory that is shared with the processes that are forked later

_CLAIM = """
    UPDATE handbell_call SET worker = %s {async_commit}
    WHERE id IN (SELECT id FROM handbell_call WHERE batch_key = %s AND worker = ''
                 ORDER BY id LIMIT %s {lock})
    RETURNING id, task_id, message
"""
_START = f"UPDATE {RESULTS_TABLE} SET status = 'STARTED', worker = %s, date_started = %s, date_done = %s"


def batch_doorbell(task: str, queue: str) -> DoorbellMessage:
    """The doorbell of all calls of this task, in this queue."""
    return DoorbellMessage(f"{BATCH_DOORBELL_PREFIX}{task}", RUN_BATCH, (task,), queue)


def can_be_batched(task: Any, message: Message) -> bool:
    """Whether a call can be claimed with others: it has no time, limit, rate or stamp of its own, and may
    begin twice.
    """
    if (
        getattr(task, "claims", 1) < 2
        or task.max_crashes < 2
        or task.rate_limit
        or task.time_limit
        or task.soft_time_limit
    ):
        return False
    headers = message.headers
    has_terms = any(headers.get(name) for name in ("eta", "expires", "retries", "stamped_headers"))
    return not (has_terms or any(headers["timelimit"]))


def ring_waiting_batches() -> None:
    """For the sweeper: ring again where a doorbell was lost, or whoever was to ring has died."""
    for name in Doorbell.objects.filter(name__startswith=BATCH_DOORBELL_PREFIX).values_list("name", flat=True):
        task = name.removeprefix(BATCH_DOORBELL_PREFIX)
        first = Call.objects.filter(batch_key=task, worker="").order_by("id").first()
        if first is not None and first.enqueued_at < timezone.now() - RING_AFTER:
            batch_doorbell(task, first.queue).ring_again()


class ClaimedCall(NamedTuple):
    """A call that this process has claimed, by its id in the ledger."""

    id: int
    message: Message


def claim_batch(task: str, hostname: str, limit: int) -> list[ClaimedCall]:
    """Claim up to `limit` calls for this process, in their order, and make their states STARTED."""
    is_postgres, now = connection.vendor == "postgresql", adapt_datetime(timezone.now())
    claim = _CLAIM.format(
        async_commit=ASYNC_COMMIT if is_postgres else "", lock="FOR UPDATE SKIP LOCKED" if is_postgres else ""
    )
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(claim, (child_claimant(os.getpid()), task, limit))
        rows = sorted(cursor.fetchall())
        ids = [task_id for _, task_id, _ in rows]
        some = "ANY(%s)" if is_postgres else f"({', '.join(['%s'] * len(ids))})"
        which = (
            f"WHERE task_id {'=' if is_postgres else 'IN'} {some} AND status NOT IN {FINAL_STATES} RETURNING task_id"
        )
        cursor.execute(f"{_START} {which}", (hostname, now, now, *([ids] if is_postgres else ids)))
        started = {task_id for (task_id,) in cursor.fetchall()}
    if ended := set(ids) - started:
        Call.objects.filter(task_id__in=ended).delete()  # revoked meanwhile
    return [ClaimedCall(pk, Message.from_json(text)) for pk, task_id, text in rows if task_id in started]


def _existing(ids: Collection[int]) -> list[int]:
    return list(Call.objects.filter(id__in=ids).values_list("id", flat=True))


def announce_revocation() -> None:
    """In the worker's main process: have its processes look which of their calls have been revoked."""
    _REVOCATIONS.pack_into(_revocations, 0, revocation_count() + 1)


def revocation_count() -> int:
    return int(_REVOCATIONS.unpack_from(_revocations)[0])


def without_revoked(calls: Sequence[ClaimedCall], count: int) -> Iterator[ClaimedCall]:
    """Those of the calls that are not revoked when their turn comes; `count` is from before they were claimed."""
    revoked: set[int] = set()
    for call in calls:
        if revocation_count() != count:
            count, ids = revocation_count(), {call.id for call in calls}
            revoked = ids - set(retry_through_outage(partial(_existing, ids)))
        if call.id not in revoked:
            yield call
