"""From call to rows: a plain task's call and its result are written in the caller's transaction; its message is sent
after the commit.
"""

import logging
from collections.abc import Mapping
from typing import Any

from django.utils import timezone
from kombu import Producer

from handbell.common.doorbell import adapt_datetime
from handbell.models import Call
from handbell.plain import sql
from handbell.plain.batching import batch_doorbell
from handbell.plain.message import ENQUEUED_AT, Message
from handbell.plain.outbox import publish_after_commit, publish_event_after_commit

logger = logging.getLogger(__name__)


def enqueue_call(
    result: Mapping[str, Any], message: Message, *, is_shared: bool, producer: Producer | None = None
) -> None:
    """Write a call and the row of its `result`, and see to it that its message is sent, with the caller's own
    `producer` if there is one.

    A call with this id that has not ended yet is left as it is. If it `is_shared` no message of its own is sent: it
    rings the doorbell of its queue.
    """
    call = new_call(message, is_shared=is_shared)
    if not sql.insert_call(result, call):
        logger.warning("%s %s has been called and has not ended: it is not called again.", message.task, call.task_id)
    elif is_shared:
        batch_doorbell(message.queue).ring_after_commit()
        if message.sent_event:
            publish_event_after_commit(message, producer)
    elif not sql.is_deferred(message):
        publish_after_commit(message, adapt_datetime(call.enqueued_at), producer)


def store_retry(message: Message, token: int | None, changes: Mapping[str, Any]) -> bool:
    """Have a call that this process has claimed under this token run again, by this message, and write these `changes`
    to its result's row; False if the call is not ours any more.
    """
    call = new_call(message)
    is_ours = sql.requeue_for_retry(call, token, changes)
    if is_ours and not sql.is_deferred(message):
        publish_after_commit(message, adapt_datetime(call.enqueued_at))
    return is_ours


def new_call(message: Message, *, is_shared: bool = False) -> Call:
    """The row of a call that nobody has sent yet."""
    now, eta = timezone.now(), message.eta
    message.options["headers"][ENQUEUED_AT] = now.isoformat()
    return Call(
        task_id=message.task_id,
        queue=message.queue,
        message=message.as_json(),
        enqueued_at=now,
        send_after=eta - sql.SEND_EARLY if eta and sql.is_deferred(message) else now + sql.UNSENT_AFTER,
        is_shared=is_shared,
        priority=int(message.options.get("priority") or 0),
    )
