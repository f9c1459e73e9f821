"""The sweeper's part for plain tasks: send what was not sent, or got lost, and take back what a dead worker had."""

import logging
import time
from datetime import timedelta
from typing import Any

from celery import current_app
from django.db import connection
from django.utils import timezone

from tasks_app.models import Call, Worker
from tasks_app.owners import is_dead
from tasks_app.plain import keeper
from tasks_app.plain.ledger import Process, adapted, worker_of
from tasks_app.plain.message import Message
from tasks_app.plain.sending import publish
from tasks_app.plain.together import ring_for_waiting
from tasks_app.queues import QUEUES

PART = 500
TURN = timedelta(seconds=3)  # for whoever sends them, before somebody else tries
SELDOM_SECONDS = 3.0
_TAKE_UNSENT = """
    UPDATE tasks_app_call SET send_after = %s
    WHERE id IN (SELECT id FROM tasks_app_call
                 WHERE sent_at IS NULL AND worker = '' AND together = '' AND send_after <= %s
                 ORDER BY send_after LIMIT %s {lock})
    RETURNING id, message
"""
logger = logging.getLogger(__name__)


def sweep() -> None:
    """Look once."""
    while send_unsent() == PART:
        pass
    ring_for_waiting()
    if time.monotonic() >= _Seldom.next:
        _Seldom.next = time.monotonic() + SELDOM_SECONDS
        look_for_lost()
        take_back()


class _Seldom:
    next = 0.0


def send_unsent() -> int:
    """Send some of the calls that are due and that nobody has sent; how many."""
    now = timezone.now()
    lock = "FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_UNSENT.format(lock=lock), (adapted(now + TURN), adapted(now), PART))
        messages = [Message.from_json(text) for _, text in sorted(cursor.fetchall())]
    for number, message in enumerate(messages):
        if not publish(message):
            return number
    return len(messages)


def look_for_lost() -> None:
    """A message that was sent, that no worker has taken, and whose queue is empty: the broker lost it, or it is with a
    worker that died, or one that is busy for long. It is sent again; of two that arrive, one is dropped.
    """
    now = timezone.now()
    for queue in QUEUES:
        waiting = Call.objects.filter(queue=queue.name, worker="", sent_at__isnull=False, send_after__lte=now)
        found = list(waiting.order_by("send_after").values_list("pk", flat=True)[:PART])
        if found and _is_empty(queue.name):
            again = Call.objects.filter(pk__in=found, worker="").update(sent_at=None, send_after=now)
            logger.info("%s messages are in queue %s no more, and are sent again.", again, queue.name)


def take_back() -> None:
    """What workers had that are gone from this machine, or have not been heard of for a while.

    The calls are read before the workers: one that has just begun is among these whatever it has claimed since.
    """
    taken = list(Call.objects.exclude(worker="").values_list("task_id", "worker"))
    now, alive = timezone.now(), {Process.id}
    for other in Worker.objects.exclude(pk=Process.id):
        if other.seen_at < now - keeper.lease() or is_dead(other.pk):
            other.delete()
        else:
            alive.add(other.pk)
    for task_id, worker in taken:
        if worker_of(worker) not in alive:
            keeper.give_back(task_id, worker, "the worker that ran it died")


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
