"""What happens every second so that nothing is ever stuck.

A thread in the main process of each worker: as long as somebody can do the work, somebody sees to it that it is done.
Each part is a few index look-ups, and doing it twice does no harm.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import worker_ready, worker_shutting_down
from django.db import Error, connection

from tasks_app.forking import unforked
from tasks_app.isolated.sweep import sweep as sweep_launches
from tasks_app.parallel.sweep import sweep as sweep_jobs
from tasks_app.plain.sweep import sweep as sweep_calls
from tasks_app.serial.sweep import sweep as sweep_lanes

SECONDS = 1.0
PARTS: tuple[Callable[[], None], ...] = (sweep_lanes, sweep_jobs, sweep_launches, sweep_calls)
logger = logging.getLogger(__name__)
_stopped = threading.Event()


@worker_ready.connect
def start(**kwargs: Any) -> None:
    threading.Thread(target=run, name="sweeper", daemon=True).start()


@worker_shutting_down.connect
def stop(**kwargs: Any) -> None:
    _stopped.set()


def run() -> None:
    """Sweep until the worker stops. A database that does not answer is asked again with a new connection."""
    while not _stopped.wait(SECONDS):
        for part in PARTS:
            try:
                with unforked():
                    part()
            except Error as error:
                logger.warning("The sweeper could not look: %s. It looks again in a moment.", str(error).strip())
                connection.close()
            except Exception:
                logger.exception("The sweeper failed. It looks again in a moment.")
                connection.close()
