"""Several calls per claim, and several results per commit.

Calls that may share a claim have no message each: they ring the doorbell of their queue. A process that answers claims
as many of them as are expected to take a moment (`pace`), rings for another process if more wait, and runs them one
after the other (`handbell.celery.batch`). What it has claimed and not begun is given back as soon as one of them takes
longer than was expected (`batch_watch`), or if the process dies.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from handbell.common.claims import claim_owner, new_claim_token
from handbell.common.doorbell import DoorbellMessage
from handbell.common.outages import retry_through_outage
from handbell.common.shared import SharedMapping, SharedNumber
from handbell.models import Call
from handbell.plain.message import Message
from handbell.plain.sql import ASYNC_COMMIT, FINAL_STATES, RESULTS_TABLE

RUN_BATCH = "handbell.run_batch"
BATCH_DOORBELL_PREFIX = "queue:"
RING_AFTER = timedelta(seconds=1)  # a call that has waited for so long: its doorbell may not have been rung

#: In a worker: how often calls were revoked; and by task what was changed by remote control since the worker started,
#: its "rate_limit" and its "time_limits", the hard and the soft one.
revocations = SharedNumber()
changed_limits = SharedMapping()

_WAITING = "FROM handbell_call WHERE queue = %s AND is_shared AND claimed_by = ''"
_COUNT = f"SELECT count(*) FROM (SELECT 1 {_WAITING} LIMIT %s) AS waiting"
_CLAIM = f"""
    UPDATE handbell_call SET claimed_by = %s, claim_token = %s {{async_commit}}
    WHERE id IN (SELECT id {_WAITING} ORDER BY priority DESC, id LIMIT %s {{lock}})
    RETURNING -priority, id, task_id, message,
        (SELECT status NOT IN {FINAL_STATES} FROM {RESULTS_TABLE} AS r WHERE r.task_id = handbell_call.task_id)
"""
_RELEASE = "UPDATE handbell_call SET claimed_by = '', claim_token = NULL WHERE claim_token = %s AND "
_AFTER = """
    EXISTS (SELECT 1 FROM handbell_call AS running WHERE running.id = %s AND (handbell_call.priority < running.priority
            OR handbell_call.priority = running.priority AND handbell_call.id > running.id))
    RETURNING queue
"""


def batch_doorbell(queue: str) -> DoorbellMessage:
    """The doorbell of all calls in this queue that may share a claim."""
    return DoorbellMessage(f"{BATCH_DOORBELL_PREFIX}{queue}", RUN_BATCH, (queue,), queue)


def may_share_claim(task: Any, message: Message) -> bool:
    """Whether a call can be claimed with others: it has no start, rate or stamp of its own, and may begin twice; and
    its message goes to one queue.
    """
    if not getattr(task, "shares_claims", False) or task.max_crashes < 2 or task.rate_limit:
        return False
    headers = message.headers
    has_terms = any(headers.get(name) for name in ("eta", "retries", "stamped_headers"))
    return not (has_terms or message.options.get("exchange"))


def ring_waiting_batches() -> None:
    """For the sweeper: ring again where a doorbell was lost, or whoever was to ring has died."""
    waiting = Call.objects.filter(is_shared=True, claimed_by="").order_by("queue", "-priority", "id")
    first = waiting.first()
    while first is not None:  # one index look-up for each queue, however many calls wait
        if first.enqueued_at < timezone.now() - RING_AFTER:
            batch_doorbell(first.queue).ring_again()
        first = waiting.filter(queue__gt=first.queue).first()


class ClaimedCall(NamedTuple):
    """A call that this process has claimed, by its id in the ledger, and the token of the claim."""

    id: int
    token: int
    message: Message


def count_waiting(queue: str, limit: int) -> int:
    """How many calls in this queue wait for a claim that they may share; no more than `limit` are counted."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, (queue, limit))
        return int(cursor.fetchone()[0])


def claim_batch(queue: str, limit: int) -> list[ClaimedCall]:
    """Claim up to `limit` calls for this process, in their order: those of higher priority first."""
    is_postgres, token = connection.vendor == "postgresql", new_claim_token()
    claim = _CLAIM.format(
        async_commit=ASYNC_COMMIT if is_postgres else "", lock="FOR UPDATE SKIP LOCKED" if is_postgres else ""
    )
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(claim, (claim_owner(), token, queue, limit))
        rows = sorted(cursor.fetchall())
        if over := [task_id for _, _, task_id, _, has_result in rows if not has_result]:
            Call.objects.filter(task_id__in=over, claim_token=token).delete()  # revoked, or nobody asks for it any more
    return [ClaimedCall(pk, token, Message.from_json(text)) for _, pk, _, text, has_result in rows if has_result]


def release_claimed(token: int, calls: Collection[int]) -> None:
    """Give back calls that this process has claimed under this token and not begun."""
    with connection.cursor() as cursor:
        marks = ", ".join(["%s"] * len(calls))
        cursor.execute(f"{_RELEASE} id IN ({marks})", [token, *calls])


def send_alone(call: ClaimedCall) -> None:
    """Give back a call that this process has claimed, and have it sent in a message of its own."""
    released = Call.objects.filter(pk=call.id, claim_token=call.token)
    released.update(claimed_by="", claim_token=None, is_shared=False, sent_at=None, send_after=timezone.now())


def release_after(token: int, call: int) -> set[str]:
    """Give back what was claimed under this token and comes after this call, which runs; the queues of that."""
    with connection.cursor() as cursor:
        cursor.execute(f"{_RELEASE} {_AFTER}", (token, call))
        return {queue for (queue,) in cursor.fetchall()}


def announce_revocation() -> None:
    """In the worker's main process: have its processes look which of their calls have been revoked."""
    revocations.value += 1


def without_revoked(calls: Sequence[ClaimedCall], count: int) -> Iterator[ClaimedCall]:
    """Those of the calls that are not revoked when their turn comes; `count` is from before they were claimed."""
    revoked: set[int] = set()
    for call in calls:
        if revocations.value != count:
            count, ids = revocations.value, {call.id for call in calls}
            revoked = ids - set(retry_through_outage(partial(_existing, ids)))
        if call.id not in revoked:
            yield call


def _existing(ids: Collection[int]) -> list[int]:
    return list(Call.objects.filter(id__in=ids).values_list("id", flat=True))
