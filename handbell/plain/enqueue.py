"""From call to rows: a plain task's call and its result are written in the caller's transaction; its message is sent
after the commit.
"""

import logging
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.utils import timezone

from handbell.plain import sql
from handbell.plain.batching import batch_doorbell
from handbell.plain.message import Message
from handbell.plain.outbox import publish_call

logger = logging.getLogger(__name__)


def enqueue_call(result: Mapping[str, Any], message: Message, on_conflict: str, batch_key: str) -> None:
    """Write a call and the row of its `result`, and see to it that its message is sent.

    `on_conflict` says what a second call with the same id does (see `sql`). With a `batch_key` no message of its own is
    sent: it rings the doorbell of all calls with that key.
    """
    now, headers = timezone.now(), message.headers
    is_retry = on_conflict == sql.REPLACE_UNFINISHED and headers.get("retries")
    is_deferred = sql.is_deferred(message)
    send_after = message.eta - sql.SEND_EARLY if message.eta and is_deferred else now + sql.UNSENT_AFTER
    if not sql.insert_call(result, message.queue, message.as_json(), send_after, on_conflict, batch_key):
        logger.info("%s %s was called before; nothing is sent twice.", headers["task"], headers["id"])
    elif batch_key:
        batch_doorbell(batch_key, message.queue).ring_after_commit()
    elif not is_deferred and not is_retry:  # a retry's is sent when the run that asks for it has ended
        transaction.on_commit(lambda: publish_call(message), robust=True)
