"""The statements of plain tasks: each changes the state of one call, in one statement, and says whether it did."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from celery import states as celery_states
from django.db import connection, transaction
from django.utils import timezone

from handbell.common.doorbell import adapt_datetime
from handbell.common.worker_id import WORKER_ID, child_claimant
from handbell.models import Call
from handbell.plain.message import Message

FINAL_STATES = "('SUCCESS', 'FAILURE', 'REVOKED')"
RESULTS_TABLE = "django_celery_results_taskresult"

UNSENT_AFTER = timedelta(seconds=2)  # if the caller has not sent the message by then, the sweeper does
LOST_AFTER = timedelta(seconds=30)  # a message that nobody has received by then may be lost
MAX_IDS = 500  # in a statement
SEND_EARLY = timedelta(seconds=30)  # a call with an ETA is sent this long before it is due

_CALL = "task_id, queue, message, enqueued_at, send_after, batch_key, worker, crash_count"
_INSERT_CALL = f"INSERT INTO handbell_call ({_CALL}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (task_id) "
_RETRY_CALL = f"""
    {_INSERT_CALL} DO UPDATE SET queue = excluded.queue, message = excluded.message, sent_at = NULL,
        enqueued_at = excluded.enqueued_at, send_after = excluded.send_after, batch_key = '', worker = ''
    WHERE handbell_call.worker IN (%s, %s)
"""
_CLAIM = "UPDATE handbell_call SET worker = %s {async_commit} WHERE task_id = %s AND worker = ''{current}"
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
    WHERE task_id = %s AND enqueued_at = %s AND sent_at IS NULL AND worker = ''
"""
_CONFIRM_MANY_POSTGRES = """
    UPDATE handbell_call AS c SET sent_at = %s, send_after = %s
    FROM unnest(%s::text[], %s::timestamptz[]) AS sent(task_id, enqueued_at)
    WHERE c.task_id = sent.task_id AND c.enqueued_at = sent.enqueued_at AND c.sent_at IS NULL AND c.worker = ''
"""
_DELETE = "DELETE FROM handbell_call WHERE task_id = %s"
_FINISHED = {"status": "text", "result": "text", "meta": "text", "date_done": "timestamptz", "worker": "text"}
_FINISH_CALLS = f"""
    WITH over AS (DELETE FROM handbell_call WHERE task_id = ANY(%s))
    UPDATE {RESULTS_TABLE} AS r SET traceback = NULL, {", ".join(f"{name} = done.{name}" for name in _FINISHED)}
    FROM unnest(%s::text[], {", ".join(f"%s::{kind}[]" for kind in _FINISHED.values())})
        AS done(task_id, {", ".join(_FINISHED)})
    WHERE r.task_id = done.task_id AND r.status NOT IN {FINAL_STATES}
"""


def insert_call(result: Mapping[str, Any], call: Call) -> bool:
    """Write a call and the row of its result. False if there is a call with this id that has not ended: then nothing
    is written.
    """
    reset = f"ON CONFLICT (task_id) DO UPDATE SET {_excluded(result)}"
    if connection.vendor == "postgresql":
        selected = f"INSERT INTO {RESULTS_TABLE} ({', '.join(result)}) SELECT {_placeholders(result)} FROM called"
        statement = f"WITH called AS ({_INSERT_CALL} DO NOTHING RETURNING id) {selected} {reset}"
        return _execute(statement, [*_call_values(call), *result.values()])
    with transaction.atomic(savepoint=False):
        return _execute(f"{_INSERT_CALL} DO NOTHING", _call_values(call)) and _execute(
            f"{_insert(result)} {reset}", result.values()
        )


def requeue_for_retry(call: Call, changes: Mapping[str, Any]) -> bool:
    """Write that a call which this process has claimed is to run again, with another message; False if it is not ours
    any more.
    """
    with transaction.atomic():
        is_ours = _execute(_RETRY_CALL, [*_call_values(call), *_our_claimants()])
        return is_ours and update_state(call.task_id, changes)


def finish_claimed_call(task_id: str, changes: Mapping[str, Any], *, keep_custom_state: bool) -> bool:
    """Write that a call which this process has claimed is over, and change its result's row, unless a custom state is
    to be kept and the task has given itself one; False if the call is not ours any more.
    """
    with transaction.atomic():
        if not Call.objects.filter(task_id=task_id, worker__in=_our_claimants()).delete()[0]:
            return False
        update, values = _update(changes)
        _execute(f"{update} AND status = 'STARTED'" if keep_custom_state else update, [*values, task_id])
        return True


def delete_call_without_result(task_id: str) -> None:
    """Drop a call whose result somebody has deleted or forgotten while it waited: nobody asks for it any more."""
    Call.objects.filter(task_id=task_id, worker__in=("", *_our_claimants())).delete()


def release_own_call(task_id: str) -> bool:
    """Let a call that this process has claimed be claimed again; False if it is not ours any more."""
    return any(release_call(task_id, claimant, crashed=False) is not None for claimant in _our_claimants())


def _our_claimants() -> tuple[str, str]:
    return WORKER_ID, child_claimant(os.getpid())


def _call_values(call: Call) -> list[Any]:
    moments = adapt_datetime(call.enqueued_at), adapt_datetime(call.send_after)
    return [call.task_id, call.queue, call.message, *moments, call.batch_key, "", 0]


def is_deferred(message: Message) -> bool:
    """Whether a call is due so late that the sweeper sends its message when the time has come."""
    return message.eta is not None and message.eta > timezone.now() + 2 * SEND_EARLY


def claim_call(
    task_id: str, hostname: str, process: str, enqueued_at: datetime | None = None, *, waits_for_disk: bool = False
) -> bool:
    """Make a queued call ours and its state "running"; whether it was there to be claimed, and has not been retried or
    replaced since it was enqueued at that time. A claim that waits for the disk is not lost when the database crashes.
    """
    now = adapt_datetime(timezone.now())
    take, start = [WORKER_ID, task_id], (hostname, now, now, process)
    if enqueued_at is not None:
        take.append(adapt_datetime(enqueued_at))
    current = _CURRENT if enqueued_at is not None else ""
    if connection.vendor == "postgresql":
        statement = _START.format(mine="FROM mine", id="mine.task_id")
        mine = _CLAIM.format(async_commit="" if waits_for_disk else ASYNC_COMMIT, current=current)
        return _execute(f"WITH mine AS ({mine} RETURNING task_id) {statement}", [*take, *start])
    with transaction.atomic(savepoint=False):
        return _execute(_CLAIM.format(async_commit="", current=current), take) and _execute(
            _START.format(mine="", id="%s"), [*start, task_id]
        )


def finish_call(task_id: str, changes: Mapping[str, Any]) -> bool:
    """Write how a task ended, and that its call is over; whether it had not ended before, and has a row."""
    update, values = _update(changes)
    if connection.vendor == "postgresql":
        return _execute(f"WITH over AS ({_DELETE}) {update}", [task_id, *values, task_id])
    with transaction.atomic(savepoint=False):
        _execute(_DELETE, [task_id])
        return _execute(update, [*values, task_id])


def finish_calls(results: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Write how several tasks ended, in one commit."""
    if connection.vendor != "postgresql":
        with transaction.atomic(savepoint=False):
            written = [finish_call(task_id, changes) for task_id, changes in results]
        return all(written)
    ids = [task_id for task_id, _ in results]
    columns = {name: [changes.get(name) for _, changes in results] for name in _FINISHED}
    return _execute(_FINISH_CALLS, [ids, ids, *columns.values()])


def update_state(task_id: str, changes: Mapping[str, Any]) -> bool:
    """Write a state that is not the last one; whether the task had not ended before, and has a row."""
    update, values = _update(changes)
    return _execute(update, [*values, task_id])


def insert_result(result: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Write the row of a task that nobody recorded when it was called; whether it had not ended before."""
    row = {**result, **changes}
    conflict = (
        f"ON CONFLICT (task_id) DO UPDATE SET {_excluded(changes)} WHERE {RESULTS_TABLE}.status NOT IN {FINAL_STATES}"
    )
    return _execute(f"{_insert(row)} {conflict}", [*row.values()])


def release_call(task_id: str, worker: str, *, crashed: bool) -> int | None:
    """Give back a call that `worker` has claimed, so that it is sent and claimed again. Returns how many processes have
    died while they ran it, or None if the claim was not the worker's any more.
    """
    with transaction.atomic():
        claimed = Call.objects.select_for_update().filter(task_id=task_id, worker=worker).first()
        if claimed is None:
            return None
        crash_count = claimed.crash_count + crashed
        now = timezone.now()
        batch_key = "" if crashed else claimed.batch_key  # what may kill its process runs alone
        changes = {"worker": "", "sent_at": None, "send_after": now, "crash_count": crash_count, "batch_key": batch_key}
        Call.objects.filter(pk=claimed.pk).update(**changes)
        update_state(task_id, {"status": celery_states.PENDING, "date_started": None, "worker": None, "result": None})
        return crash_count


def confirm_sent(sent: Sequence[tuple[str, Any]]) -> None:
    """Write that the broker has the messages of these calls, known by id and `enqueued_at`: one that has been received
    meanwhile may have been retried, and waits for another message.
    """
    now = timezone.now()
    moments = adapt_datetime(now), adapt_datetime(now + LOST_AFTER)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_CONFIRM_MANY_POSTGRES, (*moments, *map(list, zip(*sent, strict=True))))
        else:
            cursor.executemany(_CONFIRM_ONE, [(*moments, *it) for it in sent])


def postpone_resending(task_ids: Sequence[str]) -> None:
    """Leave the messages of these calls to their sender for a while: it is alive, and sends one after the other."""
    for start in range(0, len(task_ids), MAX_IDS):
        unsent = Call.objects.filter(task_id__in=task_ids[start : start + MAX_IDS], sent_at=None, worker="")
        unsent.filter(send_after__lt=timezone.now() + UNSENT_AFTER).update(send_after=timezone.now() + LOST_AFTER)


def _insert(row: Mapping[str, Any]) -> str:
    return f"INSERT INTO {RESULTS_TABLE} ({', '.join(row)}) VALUES ({_placeholders(row)})"


def _placeholders(row: Mapping[str, Any]) -> str:
    return ", ".join(["%s"] * len(row))


def _excluded(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in row if column != "task_id")


def _update(changes: Mapping[str, Any]) -> tuple[str, list[Any]]:
    assigned = ", ".join(f"{column} = %s" for column in changes)
    return f"UPDATE {RESULTS_TABLE} SET {assigned} WHERE task_id = %s AND status NOT IN {FINAL_STATES}", [
        *changes.values()
    ]


def _execute(statement: str, values: Iterable[Any]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(statement, list(values))
        return bool(cursor.rowcount > 0)


assert set(celery_states.READY_STATES) == {"SUCCESS", "FAILURE", "REVOKED"}  # what FINAL_STATES says
