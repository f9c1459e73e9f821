"""The statements of plain tasks: each changes the state of one call, in one statement, and says whether it did."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from celery import states as celery_states
from django.db import connection, transaction
from django.utils import timezone

from tasks_app import states
from tasks_app.models import Call
from tasks_app.owners import owner
from tasks_app.plain.message import Message

QUEUED = states.TO_CELERY[states.QUEUED]
FINAL = "('SUCCESS', 'FAILURE', 'REVOKED')"
RUN_TOGETHER = "tasks_app.plain.run_together"
RESULTS = "django_celery_results_taskresult"

SEND_PATIENCE = timedelta(seconds=2)  # for whoever made the call to send its message
WAIT_PATIENCE = timedelta(seconds=30)  # for a message that was sent, and is in its queue no more
EARLY = timedelta(seconds=30)  # a call with an ETA is sent this long before it is due

#: When an id that is called a second time is written again.
NEW_OR_ENDED, NEW, ITSELF = f"{RESULTS}.status IN {FINAL}", "FALSE", f"{RESULTS}.status NOT IN {FINAL}"

_CALL = "task_id, queue, message, enqueued_at, send_after, together, worker, deaths"
_CALLED_AGAIN = """
    ON CONFLICT (task_id) DO UPDATE SET queue = excluded.queue, message = excluded.message, sent_at = NULL,
        enqueued_at = excluded.enqueued_at, send_after = excluded.send_after, together = excluded.together, worker = ''
"""
_TAKE = "UPDATE tasks_app_call SET worker = %s {at_once} WHERE task_id = %s AND worker = ''"
#: This commit does not wait for the disk. What a crash of the database may undo is that somebody has begun; the call is
#: then sent again, as after any crash. https://www.postgresql.org/docs/current/wal-async-commit.html
AT_ONCE = "FROM (SELECT set_config('synchronous_commit', 'off', true)) AS at_once"
_START = f"""
    UPDATE {RESULTS} SET status = 'STARTED', worker = %s, date_started = %s, date_done = %s, result = %s,
        traceback = NULL
    {{mine}} WHERE {RESULTS}.task_id = {{id}} AND status NOT IN {FINAL}
"""
_DELETE = "DELETE FROM tasks_app_call WHERE task_id = %s"
_FINISHED = {"status": "text", "result": "text", "meta": "text", "date_done": "timestamptz", "worker": "text"}
_FINISH_MANY = f"""
    WITH over AS (DELETE FROM tasks_app_call WHERE task_id = ANY(%s))
    UPDATE {RESULTS} AS r SET traceback = NULL, {", ".join(f"{name} = done.{name}" for name in _FINISHED)}
    FROM unnest(%s::text[], {", ".join(f"%s::{kind}[]" for kind in _FINISHED.values())})
        AS done(task_id, {", ".join(_FINISHED)})
    WHERE r.task_id = done.task_id AND r.status NOT IN {FINAL}
"""


class Process:
    """This worker: its main process, whose id children inherit."""

    id = owner()
    main = os.getpid()

    @classmethod
    def child(cls, pid: object) -> str:
        """Who has claimed several calls at once: one process of this worker."""
        return f"{cls.id}#{pid}"


def worker_of(claimant: str) -> str:
    """The worker that a process belongs to which has claimed a call."""
    return claimant.partition("#")[0]


def enqueue(
    result: Mapping[str, Any], queue: str, message: str, send_after: datetime, again: str = NEW, together: str = ""
) -> bool:
    """Write a call and its result's row; whether it was written. `again` says when an id that is there already is."""
    insert = f"{_insert(result)} ON CONFLICT (task_id) DO UPDATE SET {_excluded(result)} WHERE {again}"
    row = (result["task_id"], queue, message, adapted(timezone.now()), adapted(send_after), together, "", 0)
    if connection.vendor == "postgresql":
        statement = f"""
            WITH written AS ({insert} RETURNING task_id)
            INSERT INTO tasks_app_call ({_CALL}) SELECT %s, %s, %s, %s, %s, %s, %s, %s FROM written {_CALLED_AGAIN}
        """
        return _execute(statement, [*result.values(), *row])
    with transaction.atomic(savepoint=False):
        if not _execute(insert, [*result.values()]):
            return False
        return _execute(
            f"INSERT INTO tasks_app_call ({_CALL}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) {_CALLED_AGAIN}", row
        )


def is_held(message: Message) -> bool:
    """Whether a call is due so late that the sweeper sends its message when the time has come."""
    return message.eta is not None and message.eta > timezone.now() + 2 * EARLY


def claim(task_id: str, hostname: str, process: str) -> bool:
    """Make a queued call ours and its state "running"; whether it was there to be claimed."""
    now = adapted(timezone.now())
    take, start = (Process.id, task_id), (hostname, now, now, process)
    if connection.vendor == "postgresql":
        statement = _START.format(mine="FROM mine", id="mine.task_id")
        mine = _TAKE.format(at_once=AT_ONCE)
        return _execute(f"WITH mine AS ({mine} RETURNING task_id) {statement}", [*take, *start])
    with transaction.atomic(savepoint=False):
        return _execute(_TAKE.format(at_once=""), take) and _execute(_START.format(mine="", id="%s"), [*start, task_id])


def finish(task_id: str, changes: Mapping[str, Any]) -> bool:
    """Write how a task ended, and that its call is over; whether it had not ended before, and has a row."""
    update, values = _update(changes)
    if connection.vendor == "postgresql":
        return _execute(f"WITH over AS ({_DELETE}) {update}", [task_id, *values, task_id])
    with transaction.atomic(savepoint=False):
        _execute(_DELETE, [task_id])
        return _execute(update, [*values, task_id])


def finish_many(results: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Write how several tasks ended, in one commit."""
    if connection.vendor != "postgresql":
        with transaction.atomic(savepoint=False):
            written = [finish(task_id, changes) for task_id, changes in results]
        return all(written)
    ids = [task_id for task_id, _ in results]
    columns = {name: [changes.get(name) for _, changes in results] for name in _FINISHED}
    return _execute(_FINISH_MANY, [ids, ids, *columns.values()])


def change(task_id: str, changes: Mapping[str, Any]) -> bool:
    """Write a state that is not the last one; whether the task had not ended before, and has a row."""
    update, values = _update(changes)
    return _execute(update, [*values, task_id])


def insert(result: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Write the row of a task that nobody recorded when it was called; whether it had not ended before."""
    row = {**result, **changes}
    conflict = f"ON CONFLICT (task_id) DO UPDATE SET {_excluded(changes)} WHERE {RESULTS}.status NOT IN {FINAL}"
    return _execute(f"{_insert(row)} {conflict}", [*row.values()])


def release(task_id: str, worker: str, *, died: bool) -> int | None:
    """Let a call that `worker` had taken be sent and taken again. How many processes have died of it, or None if it
    was not the worker's any more.
    """
    with transaction.atomic():
        taken = Call.objects.select_for_update().filter(task_id=task_id, worker=worker).first()
        if taken is None:
            return None
        deaths = taken.deaths + died
        now = timezone.now()
        together = "" if died else taken.together  # what may be poison runs alone
        changes = {"worker": "", "sent_at": None, "send_after": now, "deaths": deaths, "together": together}
        Call.objects.filter(pk=taken.pk).update(**changes)
        change(task_id, {"status": QUEUED, "date_started": None, "worker": None, "result": None})
        return deaths


def confirm(task_ids: Iterable[str]) -> None:
    """The broker has these messages."""
    now = timezone.now()
    waiting = Call.objects.filter(task_id__in=list(task_ids), sent_at=None)
    waiting.update(sent_at=now, send_after=now + WAIT_PATIENCE)


def adapted(moment: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(moment)


def _insert(row: Mapping[str, Any]) -> str:
    return f"INSERT INTO {RESULTS} ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})"


def _excluded(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in row if column != "task_id")


def _update(changes: Mapping[str, Any]) -> tuple[str, list[Any]]:
    assigned = ", ".join(f"{column} = %s" for column in changes)
    return f"UPDATE {RESULTS} SET {assigned} WHERE task_id = %s AND status NOT IN {FINAL}", [*changes.values()]


def _execute(statement: str, values: Iterable[Any]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(statement, list(values))
        return bool(cursor.rowcount > 0)


assert set(celery_states.READY_STATES) == {"SUCCESS", "FAILURE", "REVOKED"}  # what FINAL says
