"""Sending the messages of calls whose rows are committed, and of those that have no rows."""

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Celery, current_app
from django.db import connection, transaction
from kombu import Producer

from handbell.common import broker
from handbell.plain import sql
from handbell.plain.message import Message

CONFIRM_INTERVAL_SECONDS, MAX_UNCONFIRMED = 0.2, 100
#: From a call to its message: if there are so many, or their transaction takes so long, the sweeper is told to wait.
LATE_SECONDS = sql.UNSENT_AFTER.total_seconds() / 4


class _Outbox(threading.local):
    """The calls that this thread has recorded and not sent yet; at `late_at` the sweeper is told to leave them."""

    def __init__(self) -> None:
        self.task_ids: list[str] = []
        self.late_at = 0.0


_outbox = _Outbox()


def publish_after_commit(message: Message, enqueued_at: Any, producer: Producer | None = None) -> None:
    """Send the message of a call once its row is committed, with the caller's own `producer` if there is one."""
    if not connection.run_on_commit:  # the first of a transaction
        _outbox.task_ids, _outbox.late_at = [], time.monotonic() + LATE_SECONDS
    _outbox.task_ids.append(message.task_id)
    transaction.on_commit(lambda: _publish_now(message, enqueued_at, producer), robust=True)


def publish_event_after_commit(message: Message, producer: Producer | None = None) -> None:
    """Say, after the commit, that a call was sent which has no message of its own."""
    event = partial(message.publish_sent_event, current_app)
    what = f"The event that {message.task_id} was sent"
    transaction.on_commit(lambda: broker.publish(event, what, producer), robust=True)


def _publish_now(message: Message, enqueued_at: Any, producer: Producer | None) -> None:
    many = len(_outbox.task_ids) > 1
    if many and time.monotonic() > _outbox.late_at:
        sql.postpone_resending(_outbox.task_ids)
        _outbox.late_at = time.monotonic() + sql.RESENDING_POSTPONED_BY.total_seconds() / 2
    publish_call(message, enqueued_at, producer)
    if _outbox.task_ids[-1:] == [message.task_id]:
        _outbox.task_ids = []
        if many:
            write_confirmations()


def publish_call(message: Message, enqueued_at: Any, producer: Producer | None = None) -> bool:
    """Send the message of the call that was recorded at `enqueued_at`, and write that the broker has confirmed it. If
    it does not, the sweeper sends it later.
    """
    if not broker.publish(partial(message.publish, current_app), f"{message.task} {message.task_id}", producer):
        return False
    _Confirmations.add(sql.SentCall(message.eta, message.task_id, enqueued_at))
    return True


def write_confirmations() -> None:
    """Write now what the broker has confirmed, and has not been written yet."""
    _Confirmations.write()


@dataclass(frozen=True)
class UnrecordedMessage:
    """The message of a call that is not in the ledger: sent when it is called, which is after the commit."""

    app: Celery
    message: Message

    def __call__(self) -> None:
        publish_unrecorded(self.app, self.message)


def publish_unrecorded(app: Celery, message: Message) -> None:
    """Send a message as Celery sends it.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer, and nobody will send it later.
    """
    with app.producer_pool.acquire(block=True) as producer:
        message.publish(app, producer, retry=True, retry_policy=app.conf.task_publish_retry_policy)


class _Confirmations:
    """Messages that the broker has confirmed: written at once when there is one, together when there are many.

    Those that are still to be written when a process ends are sent a second time by the sweeper, to no effect.
    """

    sent: list[sql.SentCall] = []
    written_at = 0.0
    lock = threading.Lock()

    @classmethod
    def add(cls, call: sql.SentCall) -> None:
        with cls.lock:
            cls.sent.append(call)
            is_due = time.monotonic() - cls.written_at > CONFIRM_INTERVAL_SECONDS or len(cls.sent) >= MAX_UNCONFIRMED
        if is_due:
            cls.write()

    @classmethod
    def write(cls) -> None:
        with cls.lock:
            confirmed, cls.sent, cls.written_at = cls.sent, [], time.monotonic()
        if confirmed:
            sql.confirm_sent(confirmed)
