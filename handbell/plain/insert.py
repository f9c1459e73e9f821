"""The statements that write new calls of plain tasks: one, or many together, each with the row of its result."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from django.db import connection, transaction

from handbell.common.databases import writers_turn
from handbell.common.doorbell import adapt_datetime
from handbell.models import Call
from handbell.plain.sql import FINAL_STATES, MAX_IDS, RESULTS_TABLE, delete_call, execute, update_state

_CALL = "task_id, queue, message, enqueued_at, send_after, is_shared, priority, claimed_by, crash_count"
_INSERT_CALL = f"INSERT INTO handbell_call ({_CALL}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (task_id) "
#: Of a new result's row: what differs from call to call, and what does not.
_VARYING_OF_RESULT = {
    "task_name": "text",
    "task_args": "text",
    "task_kwargs": "text",
    "periodic_task_name": "text",
    "meta": "text",
    "date_created": "timestamptz",
    "date_done": "timestamptz",
}
_SAME_OF_RESULTS = {
    "status": "text",
    "content_type": "text",
    "content_encoding": "text",
    "date_started": "timestamptz",
    "worker": "text",
    "result": "text",
    "traceback": "text",
}
_GIVEN = {
    "task_id": "text",
    "queue": "text",
    "message": "text",
    "enqueued_at": "timestamptz",
    "send_after": "timestamptz",
    "is_shared": "boolean",
    "priority": "int",
    "claimed_by": "text",
    "crash_count": "int",
    **_VARYING_OF_RESULT,
}
_INSERT_MANY_POSTGRES = f"""
    WITH given AS (SELECT * FROM unnest({", ".join(f"%s::{kind}[]" for kind in _GIVEN.values())})
                   AS given({", ".join(_GIVEN)})),
         called AS (INSERT INTO handbell_call ({_CALL}) SELECT {_CALL} FROM given
                    ON CONFLICT (task_id) DO NOTHING RETURNING task_id),
         stored AS (INSERT INTO {RESULTS_TABLE} (task_id, {", ".join({**_VARYING_OF_RESULT, **_SAME_OF_RESULTS})})
                    SELECT task_id, {", ".join(_VARYING_OF_RESULT)},
                           {", ".join(f"%s::{kind}" for kind in _SAME_OF_RESULTS.values())}
                    FROM given JOIN called USING (task_id)
                    ON CONFLICT (task_id) DO UPDATE SET
                    {", ".join(f"{name} = excluded.{name}" for name in {**_VARYING_OF_RESULT, **_SAME_OF_RESULTS})})
    SELECT task_id FROM called
"""
_REQUEUE_CALL = """
    UPDATE handbell_call SET queue = %s, message = %s, enqueued_at = %s, send_after = %s, is_shared = %s,
        sent_at = NULL, claimed_by = '', claim_token = NULL
    WHERE task_id = %s AND claim_token = %s
"""


class CallRow(NamedTuple):
    """The row of a call that nobody has sent or claimed yet."""

    task_id: str
    queue: str
    message: str
    enqueued_at: datetime
    send_after: datetime
    is_shared: bool
    priority: int

    def values(self) -> list[Any]:
        moments = adapt_datetime(self.enqueued_at), adapt_datetime(self.send_after)
        return [self.task_id, self.queue, self.message, *moments, self.is_shared, self.priority, "", 0]


def insert_calls(rows: Sequence[tuple[Mapping[str, Any], CallRow]]) -> set[str]:
    """Write calls, each with the row of its result; the ids of those that are written. A call whose id is that of one
    that has not ended is left out.
    """
    if len(rows) == 1:
        result, call = rows[0]
        return {call.task_id} if _insert_call(result, call) else set()
    first: dict[str, tuple[Mapping[str, Any], CallRow]] = {}  # of those with the same id
    for result, call in rows:
        first.setdefault(call.task_id, (result, call))
    if connection.vendor == "postgresql":
        return _insert_many_postgres([*first.values()])
    with writers_turn(), transaction.atomic(savepoint=False):
        return _insert_many(first)


def _insert_call(result: Mapping[str, Any], call: CallRow) -> bool:
    reset = f"ON CONFLICT (task_id) DO UPDATE SET {_excluded(result)}"
    if connection.vendor == "postgresql":
        selected = f"INSERT INTO {RESULTS_TABLE} ({', '.join(result)}) SELECT {_placeholders(result)} FROM called"
        statement = f"WITH called AS ({_INSERT_CALL} DO NOTHING RETURNING id) {selected} {reset}"
        return execute(statement, [*call.values(), *result.values()])
    with writers_turn(), transaction.atomic(savepoint=False):
        return execute(f"{_INSERT_CALL} DO NOTHING", call.values()) and execute(
            f"{_insert(result)} {reset}", result.values()
        )


def _insert_many_postgres(rows: Sequence[tuple[Mapping[str, Any], CallRow]]) -> set[str]:
    results, calls = zip(*rows, strict=True)
    new = [call.values() for call in calls]
    columns = [*map(list, zip(*new, strict=True)), *([it[name] for it in results] for name in _VARYING_OF_RESULT)]
    same = [results[0][name] for name in _SAME_OF_RESULTS]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT_MANY_POSTGRES, [*columns, *same])
        return {task_id for (task_id,) in cursor.fetchall()}


def _insert_many(rows: Mapping[str, tuple[Mapping[str, Any], CallRow]]) -> set[str]:
    """In a transaction that nobody else writes beside."""
    ids = set(rows)
    for start in range(0, len(rows), MAX_IDS):
        part = islice(rows, start, start + MAX_IDS)
        ids -= set(Call.objects.filter(task_id__in=list(part)).values_list("task_id", flat=True))
    new = [row for task_id, row in rows.items() if task_id in ids]
    if new:
        columns = new[0][0]
        with connection.cursor() as cursor:
            cursor.executemany(f"{_INSERT_CALL} DO NOTHING", [call.values() for _, call in new])
            cursor.executemany(
                f"{_insert(columns)} ON CONFLICT (task_id) DO UPDATE SET {_excluded(columns)}",
                [[*result.values()] for result, _ in new],
            )
    return ids


def requeue_for_retry(call: CallRow, token: int | None, changes: Mapping[str, Any]) -> bool:
    """Write that a call which this process has claimed is to run again, with another message; False if it is not ours
    any more.
    """
    with transaction.atomic():
        if token is None:
            is_ours = execute(f"{_INSERT_CALL} DO NOTHING", call.values())
        else:
            moments = adapt_datetime(call.enqueued_at), adapt_datetime(call.send_after)
            is_ours = execute(_REQUEUE_CALL, [call.queue, call.message, *moments, False, call.task_id, token])
        if is_ours and not update_state(
            call.task_id, None, changes
        ):  # it has ended, or somebody has deleted its result
            return not delete_call(call.task_id)
        return is_ours


def insert_result(result: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Write the row of a task that nobody recorded when it was called; whether it had not ended before."""
    row = {**result, **changes}
    conflict = (
        f"ON CONFLICT (task_id) DO UPDATE SET {_excluded(changes)} WHERE {RESULTS_TABLE}.status NOT IN {FINAL_STATES}"
    )
    return execute(f"{_insert(row)} {conflict}", [*row.values()])


def _insert(row: Mapping[str, Any]) -> str:
    return f"INSERT INTO {RESULTS_TABLE} ({', '.join(row)}) VALUES ({_placeholders(row)})"


def _placeholders(row: Mapping[str, Any]) -> str:
    return ", ".join(["%s"] * len(row))


def _excluded(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in row if column != "task_id")
