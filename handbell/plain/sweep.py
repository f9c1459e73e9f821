"""The sweeper's part for plain tasks: send what was not sent, or got lost."""

import logging
from collections.abc import Iterator
from datetime import timedelta

from django.db import connection
from django.utils import timezone

from handbell.common import broker
from handbell.common.doorbell import adapt_datetime
from handbell.models import Call
from handbell.plain.batching import ring_waiting_batches
from handbell.plain.message import Message
from handbell.plain.outbox import publish_call, write_confirmations

MAX_MESSAGES = 500  # sent, or looked for, at a time
RESEND_AFTER = timedelta(seconds=3)  # one sweeper has this long to send them, before another tries
_CLAIM_UNSENT = """
    UPDATE handbell_call SET send_after = %s
    WHERE id IN (SELECT id FROM handbell_call
                 WHERE sent_at IS NULL AND claimed_by = '' AND NOT is_shared AND send_after <= %s
                 ORDER BY send_after LIMIT %s {lock})
    RETURNING id, message, enqueued_at
"""
logger = logging.getLogger(__name__)


def sweep_calls() -> None:
    """Sweep once."""
    while send_unsent() == MAX_MESSAGES:
        pass
    ring_waiting_batches()
    resend_lost_messages()


def send_unsent() -> int:
    """Send some of the calls that are due and that nobody has sent; how many."""
    now = timezone.now()
    lock = "FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(
            _CLAIM_UNSENT.format(lock=lock), (adapt_datetime(now + RESEND_AFTER), adapt_datetime(now), MAX_MESSAGES)
        )
        unsent = sorted(cursor.fetchall())
    try:
        for number, (pk, text, enqueued_at) in enumerate(unsent):
            try:
                if not publish_call(Message.from_json(text), enqueued_at):
                    return number
            except Exception:  # those behind it are sent
                logger.exception("Call %s cannot be sent.", pk)
    finally:
        write_confirmations()  # otherwise those of the last moment would be sent again
    return len(unsent)


def resend_lost_messages() -> None:
    """Send again what was sent a while ago, has not been claimed, and is not in its queue any more: the broker has lost
    it, or it is with a worker that died or is busy for long. Of two messages that arrive, one is dropped.
    """
    now = timezone.now()
    for queue in _queues_of_sent_calls():
        waiting = Call.objects.filter(queue=queue, claimed_by="", sent_at__isnull=False, send_after__lte=now)
        if waiting.exists() and broker.is_queue_empty(queue):
            found = list(waiting.order_by("send_after").values_list("pk", flat=True)[:MAX_MESSAGES])
            again = Call.objects.filter(pk__in=found, claimed_by="").update(sent_at=None, send_after=now)
            logger.info("%s messages are in queue %s no more, and are sent again.", again, queue)


def _queues_of_sent_calls() -> Iterator[str]:
    """One index look-up for each, however many calls wait."""
    sent = Call.objects.filter(claimed_by="", sent_at__isnull=False).order_by("queue").values_list("queue", flat=True)
    queue = sent.first()
    while queue is not None:
        yield queue
        queue = sent.filter(queue__gt=queue).first()
