"""Writing operations to the ledger, in the caller's transaction, and ringing their lanes after its commit."""

import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from celery.result import AsyncResult
from django.db import connection, transaction
from django.utils import timezone

from handbell.common.codec import encode_arguments
from handbell.common.databases import writers_turn
from handbell.common.doorbell import adapt_datetime
from handbell.common.ledger_task import ManyResults, new_id_prefix, numbered_task_id
from handbell.models import LaneCount, lane_of
from handbell.serial.doorbell import ring_lanes_after_commit

R = TypeVar("R")

MAX_INSERT_OPERATIONS = 5_000

_COLUMNS = "task_id, lane, key, task, arguments, status, attempts, idempotency_key, not_before, enqueued_at"
# The number of lanes that the caller counted with is checked by the very statement that inserts: an operation is
# never put into a lane that its key has left.
_LANE_COUNT_UNCHANGED = "EXISTS (SELECT 1 FROM handbell_lanecount WHERE id = 1 AND count = %s)"
_INSERT = (
    f"INSERT INTO handbell_operation ({_COLUMNS}) "
    f"SELECT %s, %s, %s, %s, %s, 'queued', 0, %s, %s, %s WHERE {_LANE_COUNT_UNCHANGED} ON CONFLICT DO NOTHING"
)
_INSERT_MANY_POSTGRES = (
    f"INSERT INTO handbell_operation ({_COLUMNS}) "
    "SELECT part.task_id, part.lane, part.key, %s, part.arguments, 'queued', 0, NULL, NULL, %s "
    "FROM unnest(%s::text[], %s::int[], %s::text[], %s::text[]) AS part(task_id, lane, key, arguments) "
    f"WHERE {_LANE_COUNT_UNCHANGED}"
)


class OperationCall(NamedTuple):
    """What an operation is for: its task, its key, and the checked arguments."""

    task: str
    key: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def arguments(self) -> str:
        return encode_arguments(f"The arguments of {self.task}", (self.args, self.kwargs))


class _LaneCount:
    """The number of lanes, remembered by each process and read again when an insert finds that it has changed."""

    def __init__(self) -> None:
        self.value = 0

    def get(self, *, fresh: bool = False) -> int:
        if fresh or not self.value:
            self.value = LaneCount.objects.values_list("count", flat=True).get(pk=1)
        return self.value


lane_count = _LaneCount()


def enqueue_operation(
    call: OperationCall, task_id: str | None, not_before: datetime | None, idempotency_key: str | None
) -> str:
    """Insert one operation; the id of its result, or of the one that came first with the same id or idempotency key."""
    arguments, task_id, now = call.arguments(), task_id or str(uuid.uuid4()), timezone.now()
    fresh = False
    while True:
        count = lane_count.get(fresh=fresh)
        lane = lane_of(call.key, count)
        row = (
            task_id,
            lane,
            call.key,
            call.task,
            arguments,
            idempotency_key,
            adapt_datetime(not_before),
            adapt_datetime(now),
            count,
        )
        with writers_turn(), connection.cursor() as cursor:
            cursor.execute(_INSERT, row)
            if cursor.rowcount == 1:
                break
            if earlier := _existing_task_id(task_id, idempotency_key):
                return earlier
        fresh = True  # the number of lanes has changed
    if not_before is None:
        ring_lanes_after_commit([lane])
    return task_id


def enqueue_operations(
    task: str, calls: Iterable[OperationCall], result: Callable[[str], AsyncResult[R]]
) -> ManyResults[R]:
    """Insert an operation per call, in one transaction and in parts; none if any call is wrong."""
    prefix = new_id_prefix()
    remaining, lanes, total = iter(calls), set[int](), 0
    with transaction.atomic():
        while part := list(islice(remaining, MAX_INSERT_OPERATIONS)):
            ids = [numbered_task_id(prefix, number) for number in range(total, total + len(part))]
            lanes.update(_insert_part(task, ids, part))
            total += len(part)
        ring_lanes_after_commit(sorted(lanes))
    return ManyResults(prefix, total, result)


def _insert_part(task: str, ids: list[str], part: list[OperationCall]) -> set[int]:
    texts, fresh = [call.arguments() for call in part], False
    while True:
        count = lane_count.get(fresh=fresh)
        lanes = [lane_of(call.key, count) for call in part]
        now = adapt_datetime(timezone.now())
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                keys = [call.key for call in part]
                cursor.execute(_INSERT_MANY_POSTGRES, (task, now, ids, lanes, keys, texts, count))
            else:
                rows = zip(ids, lanes, part, texts, strict=True)
                cursor.executemany(
                    _INSERT, [(i, lane, call.key, task, text, None, None, now, count) for i, lane, call, text in rows]
                )
            if cursor.rowcount == len(part):
                return set(lanes)
        fresh = True


def _existing_task_id(task_id: str, idempotency_key: str | None) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT task_id FROM handbell_operation WHERE task_id = %s OR idempotency_key = %s",
            (task_id, idempotency_key),
        )
        found = cursor.fetchone()
    return str(found[0]) if found else None
