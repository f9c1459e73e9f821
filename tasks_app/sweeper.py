"""What happens every second so that nothing is ever stuck.

A thread in the main process of each worker that serves the queue `serial`: as long as somebody can do the work,
somebody sees to it that it is done. Doing it twice does no harm.
"""

import logging
import threading
from typing import Any

from celery.signals import worker_ready, worker_shutting_down
from django.db import Error, connection

from tasks_app.isolated import sweep as launches
from tasks_app.queues import SERIAL
from tasks_app.serial import sweep

SECONDS = 1.0
logger = logging.getLogger(__name__)
_stopped = threading.Event()


@worker_ready.connect
def start(sender: Any = None, **kwargs: Any) -> None:
    if SERIAL.name in sender.app.amqp.queues.consume_from:
        threading.Thread(target=run, name="sweeper", daemon=True).start()


@worker_shutting_down.connect
def stop(**kwargs: Any) -> None:
    _stopped.set()


def run() -> None:
    """Sweep until the worker stops. A database that does not answer is asked again with a new connection."""
    while not _stopped.wait(SECONDS):
        try:
            sweep.sweep()
            launches.sweep()
        except Error as error:
            logger.warning("The sweeper could not look: %s. It looks again in a moment.", str(error).strip())
            connection.close()
        except Exception:
            logger.exception("The sweeper failed. It looks again in a moment.")
            connection.close()
