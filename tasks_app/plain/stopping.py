"""A worker that is told to stop takes no more, and what it runs may go on for a while. What is left then is given back.

Celery's own soft shutdown would sleep all that time in a signal handler, however soon the tasks have ended, and what it
then cancels is neither given back nor sent again.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from celery.signals import worker_init, worker_shutting_down
from django.conf import settings

from tasks_app.plain import keeper
from tasks_app.queues import ISOLATED

COLD_SECONDS = 1.0  # for a worker whose tasks have been cancelled: somebody said QUIT, or Ctrl-C again
logger = logging.getLogger(__name__)
_workers: list[Any] = []


def patience(queues: Collection[str]) -> float:
    """Seconds for which a worker of these queues may go on after it is told to stop."""
    launches = settings.LAUNCH_STOP_SECONDS + 1 if ISOLATED.name in queues else 0
    return float(max(settings.PLAIN_STOP_SECONDS, launches))


@worker_init.connect
def remember(sender: Any = None, **kwargs: Any) -> None:
    _workers[:] = [sender]


@worker_shutting_down.connect
def begin(how: str = "Warm", **kwargs: Any) -> None:
    """Celery waits for as long as it takes; a thread sees to it that this is not for ever."""
    for worker in _workers:
        seconds = COLD_SECONDS if how == "Cold" else patience(worker.app.amqp.queues.consume_from)
        threading.Thread(target=_end, args=(worker, seconds), name="stopping", daemon=True).start()


def _end(worker: Any, seconds: float) -> None:
    time.sleep(seconds)
    logger.warning("What still runs after %.0f s is given back, and runs again elsewhere.", seconds)
    keeper.leave()
    for process in getattr(getattr(worker.pool, "_pool", None), "_pool", ()):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    logging.shutdown()
    os._exit(os.EX_OK)
