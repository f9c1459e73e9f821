"""The statements of plain tasks: each changes the state of a call, or of several, and says whether it did.

`token` is that of the claim under which something is written: if the call has been given to somebody else since,
nothing is. Where it is None, nobody has claimed the call, or it is not in the ledger.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from celery import states as celery_states
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from handbell.common.claims import claim_owner
from handbell.common.databases import durable_transaction
from handbell.common.doorbell import adapt_datetime
from handbell.models import Call
from handbell.plain.message import Message

FINAL_STATES = "('SUCCESS', 'FAILURE', 'REVOKED')"
RESULTS_TABLE = "django_celery_results_taskresult"

UNSENT_AFTER = timedelta(seconds=2)  # if the caller has not sent the message by then, the sweeper does
LOST_AFTER = timedelta(seconds=5)  # a message that nobody has claimed by then, and that is in no queue, may be lost
RESENDING_POSTPONED_BY = timedelta(seconds=8)  # who sends many messages one after the other is given so long at a time
MAX_IDS = 500  # in a statement
SEND_EARLY = timedelta(seconds=30)  # a call with an ETA is sent this long before it is due

_CLAIM = """
    UPDATE handbell_call SET claimed_by = %s, claim_token = %s {async_commit}
    WHERE task_id = %s AND claimed_by = ''{current}
"""
_CURRENT = " AND enqueued_at = %s"
#: This commit does not wait for the disk. A crash of the database may lose the claim; the call is
#: then sent again, as after any crash. https://www.postgresql.org/docs/current/wal-async-commit.html
ASYNC_COMMIT = "FROM (SELECT set_config('synchronous_commit', 'off', true)) AS async_commit"
_START = f"""
    UPDATE {RESULTS_TABLE} SET status = 'STARTED', worker = %s, date_started = %s, date_done = %s, result = %s,
        traceback = NULL
    {{mine}} WHERE {RESULTS_TABLE}.task_id = {{id}} AND status NOT IN {FINAL_STATES}
"""
_CONFIRM_ONE = """
    UPDATE handbell_call SET sent_at = %s, send_after = %s
    WHERE task_id = %s AND enqueued_at = %s AND sent_at IS NULL AND claimed_by = ''
"""
_CONFIRM_MANY_POSTGRES = """
    UPDATE handbell_call AS c SET sent_at = %s, send_after = sent.lost_at
    FROM unnest(%s::timestamptz[], %s::text[], %s::timestamptz[]) AS sent(lost_at, task_id, enqueued_at)
    WHERE c.task_id = sent.task_id AND c.enqueued_at = sent.enqueued_at AND c.sent_at IS NULL AND c.claimed_by = ''
"""
_DELETE = "DELETE FROM handbell_call WHERE task_id = %s"
_DELETE_CLAIMED = f"{_DELETE} AND claim_token = %s"
_IS_CLAIMED = " AND EXISTS (SELECT 1 FROM handbell_call WHERE task_id = %s AND claim_token = %s)"
_FINISHED = {
    "status": "text",
    "result": "text",
    "meta": "text",
    "date_started": "timestamptz",
    "date_done": "timestamptz",
    "worker": "text",
}
_FINISH_CALLS = f"""
    WITH claimed AS (SELECT * FROM unnest(%s::text[], %s::bigint[],
                                          {", ".join(f"%s::{kind}[]" for kind in _FINISHED.values())})
                     AS claimed(task_id, claim_token, {", ".join(_FINISHED)})),
         over AS (DELETE FROM handbell_call AS c USING claimed
                  WHERE c.task_id = claimed.task_id AND c.claim_token = claimed.claim_token RETURNING c.task_id)
    UPDATE {RESULTS_TABLE} AS r SET traceback = NULL, {", ".join(f"{name} = claimed.{name}" for name in _FINISHED)}
    FROM claimed, over
    WHERE over.task_id = claimed.task_id AND r.task_id = claimed.task_id AND r.status NOT IN {FINAL_STATES}
"""


class Stored(NamedTuple):
    """What became of a write: whether the call was ours to write for, and whether its result has a row that has not
    ended before.
    """

    is_ours: bool
    has_row: bool


def finish_claimed_call(
    task_id: str, token: int | None, changes: Mapping[str, Any], *, keep_custom_state: bool
) -> bool:
    """Write that a call which this process has claimed is over, and change its result's row, unless a custom state is
    to be kept and the task has given itself one; False if the call is not ours any more.
    """
    with transaction.atomic():
        if token is not None and not execute(_DELETE_CLAIMED, [task_id, token]):
            return False
        update, values = _update(changes)
        execute(f"{update} AND status = 'STARTED'" if keep_custom_state else update, [*values, task_id])
        return True


def delete_call(task_id: str) -> bool:
    """Drop a call, whoever has claimed it; whether it was there."""
    return execute(_DELETE, [task_id])


def delete_call_without_result(task_id: str, token: int) -> None:
    """Drop a call whose result somebody has deleted or forgotten while it waited: nobody asks for it any more."""
    Call.objects.filter(Q(claimed_by="") | Q(claim_token=token), task_id=task_id).delete()


def is_deferred(message: Message) -> bool:
    """Whether a call is due so late that the sweeper sends its message when the time has come."""
    return message.eta is not None and message.eta > timezone.now() + 2 * SEND_EARLY


def claim_call(
    task_id: str,
    token: int,
    hostname: str,
    process: str,
    enqueued_at: datetime | None = None,
    *,
    waits_for_disk: bool = False,
) -> bool:
    """Make a queued call ours and its state "running"; whether it was there to be claimed, and has not been retried or
    replaced since it was enqueued at that time. A claim that waits for the disk is not lost when the database crashes.
    """
    now = adapt_datetime(timezone.now())
    take, start = [claim_owner(), token, task_id], (hostname, now, now, process)
    if enqueued_at is not None:
        take.append(adapt_datetime(enqueued_at))
    current = _CURRENT if enqueued_at is not None else ""
    with durable_transaction() if waits_for_disk else nullcontext():
        if connection.vendor == "postgresql":
            statement = _START.format(mine="FROM mine", id="mine.task_id")
            mine = _CLAIM.format(async_commit="" if waits_for_disk else ASYNC_COMMIT, current=current)
            return execute(f"WITH mine AS ({mine} RETURNING task_id) {statement}", [*take, *start])
        with transaction.atomic(savepoint=False):
            return execute(_CLAIM.format(async_commit="", current=current), take) and execute(
                _START.format(mine="", id="%s"), [*start, task_id]
            )


def finish_call(task_id: str, token: int | None, changes: Mapping[str, Any]) -> Stored:
    """Write how a task ended, and that its call is over."""
    update, values = _update(changes)
    delete, which = (_DELETE, [task_id]) if token is None else (_DELETE_CLAIMED, [task_id, token])
    if connection.vendor != "postgresql":
        with transaction.atomic(savepoint=False):
            is_ours = execute(delete, which) or token is None
            return Stored(is_ours, is_ours and execute(update, [*values, task_id]))
    if token is None:
        return Stored(is_ours=True, has_row=execute(f"WITH over AS ({delete}) {update}", [*which, *values, task_id]))
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH over AS ({delete} RETURNING 1), stored AS ({update} AND EXISTS (SELECT 1 FROM over) RETURNING 1) "
            "SELECT EXISTS (SELECT 1 FROM over), EXISTS (SELECT 1 FROM stored)",
            [*which, *values, task_id],
        )
        return Stored(*cursor.fetchone())


def finish_calls(results: Sequence[tuple[str, int, Mapping[str, Any]]]) -> bool:
    """Write how several tasks ended, each given by its id, its claim's token and the changes, in one commit."""
    if connection.vendor != "postgresql":
        with transaction.atomic(savepoint=False):
            written = [finish_call(task_id, token, changes).has_row for task_id, token, changes in results]
        return all(written)
    ids, tokens, changes = zip(*results, strict=True)
    return execute(_FINISH_CALLS, [list(ids), list(tokens), *([it.get(name) for it in changes] for name in _FINISHED)])


def update_state(task_id: str, token: int | None, changes: Mapping[str, Any]) -> bool:
    """Write a state that is not the last one; whether the task had not ended before, and has a row."""
    update, values = _update(changes)
    if token is None:
        return execute(update, [*values, task_id])
    return execute(f"{update}{_IS_CLAIMED}", [*values, task_id, task_id, token])


def release_call(task_id: str, token: int | None, *, crashed: bool, redelivered: bool = False) -> int | None:
    """Give back a call that was claimed under this token, so that it is sent and claimed again; `redelivered`, as its
    task may ask. Returns how many processes have died while they ran it, or None if the claim does not hold any more.
    """
    with transaction.atomic():
        claimed = Call.objects.select_for_update().filter(task_id=task_id, claim_token=token).first()
        if claimed is None:
            return None
        now, crash_count = timezone.now(), claimed.crash_count + crashed
        Call.objects.filter(pk=claimed.pk).update(
            claimed_by="",
            claim_token=None,
            sent_at=None,
            send_after=now,
            crash_count=crash_count,
            message=Message.from_json(claimed.message).redelivered().as_json() if redelivered else claimed.message,
            is_shared=claimed.is_shared and not crashed,  # what may kill its process runs alone
        )
        queued = {"status": celery_states.PENDING, "date_started": None, "worker": None, "result": None}
        update_state(task_id, None, queued)
        return crash_count


class SentCall(NamedTuple):
    """A call whose message the broker has. One that has been received meanwhile may have been retried, and waits for
    another message: so it is known by its id and by `enqueued_at`.
    """

    eta: datetime | None
    task_id: str
    enqueued_at: Any

    def lost_at(self, now: datetime) -> Any:
        """When its message may be lost, if nobody has claimed it by then: a worker may hold it until it is due."""
        return adapt_datetime(max(now, self.eta or now) + LOST_AFTER)


def confirm_sent(sent: Sequence[SentCall]) -> None:
    """Write that the broker has the messages of these calls."""
    now = timezone.now()
    rows = [(it.lost_at(now), it.task_id, it.enqueued_at) for it in sent]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            columns = map(list, zip(*rows, strict=True))
            cursor.execute(_CONFIRM_MANY_POSTGRES, (adapt_datetime(now), *columns))
        else:
            cursor.executemany(_CONFIRM_ONE, [(adapt_datetime(now), *row) for row in rows])


def postpone_resending(task_ids: Sequence[str]) -> None:
    """Leave the messages of these calls to their sender for a while: it is alive, and sends one after the other."""
    for start in range(0, len(task_ids), MAX_IDS):
        unsent = Call.objects.filter(task_id__in=task_ids[start : start + MAX_IDS], sent_at=None, claimed_by="")
        unsent.filter(send_after__lt=timezone.now() + UNSENT_AFTER).update(
            send_after=timezone.now() + RESENDING_POSTPONED_BY
        )


def _update(changes: Mapping[str, Any]) -> tuple[str, list[Any]]:
    assigned = ", ".join(f"{column} = %s" for column in changes)
    return f"UPDATE {RESULTS_TABLE} SET {assigned} WHERE task_id = %s AND status NOT IN {FINAL_STATES}", [
        *changes.values()
    ]


def execute(statement: str, values: Iterable[Any]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(statement, list(values))
        return bool(cursor.rowcount > 0)


assert set(celery_states.READY_STATES) == {"SUCCESS", "FAILURE", "REVOKED"}  # what FINAL_STATES says
