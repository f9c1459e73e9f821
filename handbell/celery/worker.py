"""What Handbell does when a worker starts and stops.

A worker that is told to stop takes no more messages, and what it runs may go on for a while. What is left then is given
back. Celery's own soft shutdown would sleep all that time in a signal handler, however soon the tasks have ended, and
what it then cancels is neither given back nor sent again.
"""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from celery.signals import worker_init, worker_process_init, worker_ready, worker_shutdown, worker_shutting_down
from django.db import Error

from handbell.celery.batch import fail_call_at_time_limit
from handbell.celery.batch_events import BatchEvents
from handbell.celery.worker_heartbeat import announce_birth, register_worker, start_worker_heartbeat
from handbell.common import activity, stop_pipe, time_limits
from handbell.common.claims import WORKER_ID
from handbell.common.write_backlog import write_backlog
from handbell.conf import conf
from handbell.isolated.cgroups import launch_fence
from handbell.isolated.fork_client import started_fork_client
from handbell.models import Owner
from handbell.plain import batch_slots
from handbell.plain.batch_watch import start_batch_watch
from handbell.plain.crash_recovery import release_calls
from handbell.queues import ISOLATED, SERIAL
from handbell.recovery import release_claims
from handbell.serial.interrupted import fail_at_time_limit

COLD_STOP_SECONDS = 1.0  # for a worker whose tasks have been cancelled: somebody said QUIT, or Ctrl-C again
LAUNCH_MARGIN_SECONDS = 1.0  # to record the outcomes of the launches that were ended
logger = logging.getLogger(__name__)


class _ThisWorker:
    worker: Any = None
    owner: Owner


def stop_seconds(queues: Collection[str]) -> float:
    """For how long a worker of these queues may go on after it is told to stop."""
    return conf.STOP_SECONDS + (LAUNCH_MARGIN_SECONDS if ISOLATED in queues else 0.0)


@worker_init.connect
def on_worker_init(sender: Any = None, **kwargs: Any) -> None:
    """Before the pool's processes are forked."""
    _ThisWorker.worker = sender
    from handbell.celery import control  # noqa: F401, PLC0415  (it registers itself, and is for workers only)

    activity.open_table()
    time_limits.open_table()
    batch_slots.open_tables()
    stop_pipe.open_pipe()
    queues = sorted(sender.app.amqp.queues.consume_from)
    _ThisWorker.owner = Owner(
        pk=WORKER_ID,
        kind=Owner.WORKER,
        name=sender.hostname,
        queues=queues,
        launch_fence=launch_fence() if ISOLATED in queues else "",
    )
    register_worker(_ThisWorker.owner)
    gc.collect()
    gc.freeze()  # what is loaded stays: looking at it would give each process a copy of its own of all these pages


@worker_process_init.connect
def on_worker_process_init(**kwargs: Any) -> None:
    announce_birth()
    if _ThisWorker.owner.queues == [ISOLATED]:
        started_fork_client()  # for the first launch not to wait for it


@worker_ready.connect
def on_worker_ready(sender: Any = None, **kwargs: Any) -> None:
    write_backlog.serve()
    start_worker_heartbeat(_ThisWorker.owner, child_pids)
    if SERIAL in sender.app.amqp.queues.consume_from:
        time_limits.watch_time_limits(time_limits.WorkKind.OPERATION, on_killed=fail_at_time_limit)
    time_limits.watch_time_limits(time_limits.WorkKind.CALL, before_kill=fail_call_at_time_limit)
    start_batch_watch(sender.hostname, lambda: announce_events(sender))


def announce_events(consumer: Any) -> None:
    """Tell the worker's processes whether it sends events, which remote control switches on and off."""
    dispatcher = getattr(consumer, "event_dispatcher", None)  # there is none while it connects
    BatchEvents.enabled.value = int(bool(dispatcher and dispatcher.enabled))


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
    _attempt_release(_leave)


def _exit_after(seconds: float) -> None:
    time.sleep(seconds)
    logger.warning("What still runs after %.0f s is given back, and runs again elsewhere.", seconds)
    _attempt_release(lambda: release_calls(WORKER_ID))  # before their processes die, which would count as a crash
    for pid in child_pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _attempt_release(_leave)
    logging.shutdown()
    os._exit(os.EX_OK)


def child_pids() -> list[int]:
    """The pids of this worker's processes; none where tasks are threads."""
    pool = getattr(getattr(_ThisWorker.worker, "pool", None), "_pool", None)
    return [process.pid for process in getattr(pool, "_pool", None) or ()]


def _leave() -> None:
    release_claims(WORKER_ID)
    Owner.objects.filter(pk=WORKER_ID).delete()


def _attempt_release(release: Callable[[], None]) -> None:
    try:
        release()
    except Error as error:
        logger.warning("The database was not told that this worker leaves: %s", str(error).strip())
