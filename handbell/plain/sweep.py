"""The sweeper's part for plain tasks: send what was not sent, or got lost, and give back what a dead worker had."""

import logging
import time
from datetime import timedelta
from typing import Any

from celery import current_app
from django.db import connection
from django.utils import timezone

from handbell.common.doorbell import adapt_datetime
from handbell.common.leases import lease
from handbell.common.process_id import is_dead
from handbell.common.worker_id import WORKER_ID, worker_of
from handbell.models import Call, Worker
from handbell.plain import crash_recovery
from handbell.plain.batching import ring_waiting_batches
from handbell.plain.message import Message
from handbell.plain.outbox import publish_call, write_confirmations

MAX_MESSAGES = 500  # sent, or looked for, at a time
RESEND_AFTER = timedelta(seconds=3)  # one sweeper has this long to send them, before another tries
RECOVERY_INTERVAL_SECONDS = 3.0  # between looks for lost messages and dead workers
_CLAIM_UNSENT = """
    UPDATE handbell_call SET send_after = %s
    WHERE id IN (SELECT id FROM handbell_call
                 WHERE sent_at IS NULL AND worker = '' AND batch_key = '' AND send_after <= %s
                 ORDER BY send_after LIMIT %s {lock})
    RETURNING id, message, enqueued_at
"""
logger = logging.getLogger(__name__)


def sweep_calls() -> None:
    """Sweep once."""
    while send_unsent() == MAX_MESSAGES:
        pass
    ring_waiting_batches()
    if time.monotonic() >= _Recovery.next:
        _Recovery.next = time.monotonic() + RECOVERY_INTERVAL_SECONDS
        resend_lost_messages()
        recover_abandoned_calls()


class _Recovery:
    next = 0.0


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
    for queue in set(current_app.amqp.queues):  # those of the table, and whatever else this worker takes
        waiting = Call.objects.filter(queue=queue, worker="", sent_at__isnull=False, send_after__lte=now)
        found = list(waiting.order_by("send_after").values_list("pk", flat=True)[:MAX_MESSAGES])
        if found and _is_empty(queue):
            again = Call.objects.filter(pk__in=found, worker="").update(sent_at=None, send_after=now)
            logger.info("%s messages are in queue %s no more, and are sent again.", again, queue)


def recover_abandoned_calls() -> None:
    """Give back what was claimed by workers that are gone from this machine, or have been silent for the lease.

    The calls are read before the workers: so a worker that starts meanwhile is among those that are alive, whatever it
    has claimed.
    """
    claimed = list(Call.objects.exclude(worker="").values_list("task_id", "worker"))
    now, alive = timezone.now(), {WORKER_ID}
    for other in Worker.objects.exclude(pk=WORKER_ID):
        if other.seen_at < now - lease() or is_dead(other.pk):
            other.delete()
        else:
            alive.add(other.pk)
    for task_id, worker in claimed:
        if worker_of(worker) not in alive:
            crash_recovery.recover_call(task_id, worker, "the worker that ran it died")


def _is_empty(queue: str) -> bool:
    with current_app.connection_for_read() as broker:
        channel: Any
        try:
            channel = broker.default_channel
            return not channel.queue_declare(queue=queue, passive=True).message_count
        except broker.channel_errors:
            return True  # Redis has no empty lists
        except broker.connection_errors:
            return False
