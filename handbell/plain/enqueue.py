"""From call to rows: a plain task's call and its result are written in the caller's transaction; its message is sent
after the commit.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.utils import timezone
from kombu import Producer

from handbell.common.doorbell import adapt_datetime
from handbell.plain import insert, sql
from handbell.plain.batching import batch_doorbell
from handbell.plain.insert import CallRow
from handbell.plain.message import ENQUEUED_AT, Message
from handbell.plain.outbox import publish_after_commit, publish_event_after_commit

MAX_GATHERED_CALLS, MAX_GATHERED_CHARACTERS = 1_000, 4_000_000  # of calls, and of their messages
logger = logging.getLogger(__name__)


class NewCall(NamedTuple):
    """A call that is to be written: the row of its result, its own, its message, and the caller's own producer."""

    result: Mapping[str, Any]
    row: CallRow
    message: Message
    producer: Producer | None


class _Gathering:
    """Calls that wait to be written together, in a transaction that begins with the first that are written."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._calls, self._has_begun = stack, list[NewCall](), False
        self._characters = 0
        self._connection: Any = connections[DEFAULT_DB_ALIAS]
        self._depth = self._open_blocks()

    def _open_blocks(self) -> int:
        return len(self._connection.atomic_blocks)

    def takes(self) -> bool:
        """Whether a call that is made now may wait: one in an `atomic` block of its own may be rolled back with it."""
        return self._open_blocks() == self._depth

    def add(self, call: NewCall) -> None:
        self._calls.append(call)
        self._characters += len(call.row.message)
        if len(self._calls) >= MAX_GATHERED_CALLS or self._characters >= MAX_GATHERED_CHARACTERS:
            self.write()

    def write(self) -> None:
        if not self._calls or self._connection.needs_rollback:
            return
        if not self._has_begun:
            self._stack.enter_context(transaction.atomic())
            self._depth, self._has_begun = self._open_blocks(), True
        calls, self._calls, self._characters = self._calls, [], 0
        _write(calls)


class _ThreadsGathering(threading.local):
    """What gathers the calls of this thread; None where each is written at once."""

    now: _Gathering | None = None


_gathering = _ThreadsGathering()


@contextmanager
def bulk() -> Iterator[None]:
    """Write the calls of plain tasks that are made in this block together, which takes a fraction of the time:

        with bulk():
            for order in orders:
                send_invoice.delay(order.pk)

    The block is a transaction, as with `django.db.transaction.atomic()`: if it raises, nothing has been called. Calls
    are written a thousand at a time, the last of them at its end. Until then nobody sees them, or can revoke them.
    Operations, jobs and launches are written at once, in the same transaction. A `group` does all this by itself.
    """
    with transaction.atomic(), gathered_calls():
        yield


@contextmanager
def gathered_calls() -> Iterator[None]:
    """As `bulk`, but the transaction begins no sooner than something is written."""
    if _gathering.now is not None and _gathering.now.takes():
        yield  # to the block around this one
        return
    outer = _gathering.now
    with ExitStack() as stack:
        stack.callback(setattr, _gathering, "now", outer)
        _gathering.now = gathering = _Gathering(stack)
        yield
        gathering.write()


def enqueue_call(
    result: Mapping[str, Any], message: Message, *, is_shared: bool, producer: Producer | None = None
) -> None:
    """Write a call and the row of its `result`, and see to it that its message is sent, with the caller's own
    `producer` if there is one.

    A call with this id that has not ended yet is left as it is. If it `is_shared` no message of its own is sent: it
    rings the doorbell of its queue.
    """
    call = NewCall(result, new_call(message, is_shared=is_shared), message, producer)
    if _gathering.now is not None and _gathering.now.takes():
        _gathering.now.add(call)
    else:
        _write([call])


def _write(calls: Sequence[NewCall]) -> None:
    """Write these calls, and see to it that their messages are sent."""
    new_ids = insert.insert_calls([(it.result, it.row) for it in calls])
    for call in calls:
        if call.message.task_id not in new_ids:
            logger.warning(
                "%s %s has been called and has not ended: it is not called again.", call.message.task, call.row.task_id
            )
            continue
        new_ids.discard(call.message.task_id)  # another one with this id in the same block has not ended either
        _send_after_commit(call)


def _send_after_commit(call: NewCall) -> None:
    if call.row.is_shared:
        batch_doorbell(call.row.queue).ring_after_commit()
        if call.message.sent_event:
            publish_event_after_commit(call.message, call.producer)
    elif not sql.is_deferred(call.message):
        publish_after_commit(call.message, adapt_datetime(call.row.enqueued_at), call.producer)


def store_retry(message: Message, token: int | None, changes: Mapping[str, Any]) -> bool:
    """Have a call that this process has claimed under this token run again, by this message, and write these `changes`
    to its result's row; False if the call is not ours any more.
    """
    call = new_call(message)
    is_ours = insert.requeue_for_retry(call, token, changes)
    if is_ours and not sql.is_deferred(message):
        publish_after_commit(message, adapt_datetime(call.enqueued_at))
    return is_ours


def new_call(message: Message, *, is_shared: bool = False) -> CallRow:
    """The row of a call that nobody has sent yet."""
    now, eta = timezone.now(), message.eta
    message.options["headers"][ENQUEUED_AT] = now.isoformat()
    return CallRow(
        task_id=message.task_id,
        queue=message.queue,
        message=message.as_json(),
        enqueued_at=now,
        send_after=eta - sql.SEND_EARLY if eta and sql.is_deferred(message) else now + sql.UNSENT_AFTER,
        is_shared=is_shared,
        priority=int(message.options.get("priority") or 0),
    )
