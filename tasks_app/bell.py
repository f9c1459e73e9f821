"""Sending a doorbell: a message that carries no state, so a lost one is only sent again later, by the sweeper."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from celery import current_app
from kombu.exceptions import OperationalError

from tasks_app.errors import BrokerUnavailable

SILENCE_SECONDS = 1.0
logger = logging.getLogger(__name__)


class _Broker:
    """After a failure nobody in this process tries again for a moment, so that callers do not wait for it one by
    one.
    """

    silent_until = 0.0


def send(task: str, args: Sequence[Any], queue: str, what: str, priority: int | None = None) -> None:
    """Send the message `task(*args)` to `queue`. If the broker does not answer, log that `what` was not sent."""
    if time.monotonic() < _Broker.silent_until:
        return
    options: dict[str, Any] = {} if priority is None else {"priority": priority}
    try:
        current_app.send_task(task, args, queue=queue, ignore_result=True, retry=False, **options)
    except (OperationalError, OSError, BrokerUnavailable) as error:
        _Broker.silent_until = time.monotonic() + SILENCE_SECONDS
        logger.warning("%s was not sent: %s. It is sent once the broker answers.", what, error)
