"""The sweeper: every second, what was lost or left behind is found and sent or given back, so that nothing is stuck.

It is a thread in the main process of each worker: where there is a worker to do the work, there is a sweeper. Each
sweep is a few index look-ups, and two at the same time do no harm.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import worker_ready, worker_shutting_down
from django.db import Error, connection

from handbell.common.fork_lock import no_fork
from handbell.isolated.sweep import sweep_launches
from handbell.parallel.sweep import sweep_jobs
from handbell.plain.sweep import sweep_calls
from handbell.serial.sweep import sweep_lanes

INTERVAL_SECONDS = 1.0
SWEEPS: tuple[Callable[[], None], ...] = (sweep_lanes, sweep_jobs, sweep_launches, sweep_calls)
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
    while not _stopped.wait(INTERVAL_SECONDS):
        for sweep in SWEEPS:
            try:
                with no_fork():
                    sweep()
            except Error as error:
                logger.warning("The sweeper could not look: %s. It looks again in a moment.", str(error).strip())
                connection.close()
            except Exception:
                logger.exception("The sweeper failed. It looks again in a moment.")
                connection.close()
