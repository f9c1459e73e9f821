"""Sending the messages of calls whose rows are committed, and of those that have no rows."""

import threading
import time
from dataclasses import dataclass
from functools import partial

from celery import Celery, current_app

from handbell.common import broker
from handbell.plain import sql
from handbell.plain.message import Message

CONFIRM_INTERVAL_SECONDS, MAX_UNCONFIRMED = 0.2, 100


def publish_call(message: Message) -> bool:
    """Send a message, and write that the broker has confirmed it. If it does not, the sweeper sends it later."""
    headers = message.headers
    if not broker.publish(partial(message.publish, current_app), f"{headers['task']} {headers['id']}"):
        return False
    _Confirmations.add(headers["id"])
    return True


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

    task_ids: list[str] = []
    written_at = 0.0
    lock = threading.Lock()

    @classmethod
    def add(cls, task_id: str) -> None:
        with cls.lock:
            cls.task_ids.append(task_id)
            now = time.monotonic()
            if now - cls.written_at < CONFIRM_INTERVAL_SECONDS and len(cls.task_ids) < MAX_UNCONFIRMED:
                return
            confirmed, cls.task_ids, cls.written_at = cls.task_ids, [], now
        sql.confirm_sent(confirmed)
