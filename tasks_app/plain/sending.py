"""Sending the messages of calls whose rows are committed."""

import threading
import time
from functools import partial

from celery import current_app

from tasks_app import bell
from tasks_app.plain import ledger
from tasks_app.plain.message import Message

CONFIRM_SECONDS, CONFIRM_MANY = 0.2, 100


def publish(message: Message) -> bool:
    """Send a message, and write that the broker has confirmed it. If it does not, the sweeper sends it later."""
    headers = message.headers
    if not bell.publish(partial(message.publish, current_app), f"{headers['task']} {headers['id']}"):
        return False
    _Confirmed.add(headers["id"])
    return True


class _Confirmed:
    """Messages that the broker has confirmed: written at once when there is one, together when there are many.

    Those that are still to be written when a process ends are sent a second time by the sweeper, for nothing.
    """

    waiting: list[str] = []
    written_at = 0.0
    lock = threading.Lock()

    @classmethod
    def add(cls, task_id: str) -> None:
        with cls.lock:
            cls.waiting.append(task_id)
            now = time.monotonic()
            if now - cls.written_at < CONFIRM_SECONDS and len(cls.waiting) < CONFIRM_MANY:
                return
            confirmed, cls.waiting, cls.written_at = cls.waiting, [], now
        ledger.confirm(confirmed)
