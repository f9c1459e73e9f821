"""What Handbell does when a worker starts and stops.

A worker that is told to stop takes no more messages, and what it runs may go on for a while. What is left then is given
back. Celery's own soft shutdown would sleep all that time in a signal handler, however soon the tasks have ended, and
what it then cancels is neither given back nor sent again.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down

from handbell.common import time_limits
from handbell.conf import conf
from handbell.isolated import stop_pipe
from handbell.plain.crash_recovery import release_claimed_calls
from handbell.plain.worker_heartbeat import register_worker, start_worker_heartbeat
from handbell.queues import ISOLATED, SERIAL
from handbell.serial.interrupted import fail_at_time_limit, release_running_operations

COLD_STOP_SECONDS = 1.0  # for a worker whose tasks have been cancelled: somebody said QUIT, or Ctrl-C again
LAUNCH_MARGIN_SECONDS = 1.0  # to record the outcomes of the launches that were ended
logger = logging.getLogger(__name__)


class _ThisWorker:
    worker: Any = None


def stop_seconds(queues: Collection[str]) -> float:
    """For how long a worker of these queues may go on after it is told to stop."""
    return conf.STOP_SECONDS + (LAUNCH_MARGIN_SECONDS if ISOLATED in queues else 0.0)


@worker_init.connect
def on_worker_init(sender: Any = None, **kwargs: Any) -> None:
    """Before the pool's processes are forked."""
    _ThisWorker.worker = sender
    from handbell.celery import control  # noqa: F401, PLC0415  (it registers itself, and is for workers only)

    time_limits.open_table()
    if ISOLATED in sender.app.amqp.queues.consume_from:
        stop_pipe.open_pipe()
    register_worker(sender.hostname)


@worker_ready.connect
def on_worker_ready(sender: Any = None, **kwargs: Any) -> None:
    start_worker_heartbeat(str(sender.hostname))
    if SERIAL in sender.app.amqp.queues.consume_from:
        time_limits.watch_time_limits(time_limits.WorkKind.OPERATION, fail_at_time_limit)


@worker_shutting_down.connect
def on_worker_shutting_down(how: str = "Warm", **kwargs: Any) -> None:
    """Celery waits for as long as the tasks take; a thread ends the worker when its time is up."""
    stop_pipe.announce_stop()
    if _ThisWorker.worker is not None:
        queues = _ThisWorker.worker.app.amqp.queues.consume_from
        seconds = COLD_STOP_SECONDS if how == "Cold" else stop_seconds(queues)
        threading.Thread(target=_exit_after, args=(seconds,), name="worker-stop", daemon=True).start()


@worker_shutdown.connect
def on_worker_shutdown(**kwargs: Any) -> None:
    release_claimed_calls()
    release_running_operations()


def _exit_after(seconds: float) -> None:
    time.sleep(seconds)
    logger.warning("What still runs after %.0f s is given back, and runs again elsewhere.", seconds)
    release_claimed_calls()
    for process in getattr(getattr(_ThisWorker.worker.pool, "_pool", None), "_pool", ()):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    release_running_operations()
    logging.shutdown()
    os._exit(os.EX_OK)
