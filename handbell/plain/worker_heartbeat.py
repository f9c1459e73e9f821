"""The thread in each worker's main process that reports that the worker is alive, and flushes the write backlog.

It runs until the process ends. A database that does not answer holds up this thread and nothing else.
"""

import logging
import threading

from django.db import Error, connection
from django.utils import timezone

from handbell.common.fork_lock import no_fork
from handbell.common.leases import renewal_seconds
from handbell.common.worker_id import WORKER_ID
from handbell.models import Worker
from handbell.plain.write_backlog import write_backlog

logger = logging.getLogger(__name__)


def register_worker(name: str) -> None:
    """Write that the worker is there, before its first child is forked, which must not inherit the connection."""
    try:
        _beat(name)
    except Error as error:
        logger.warning("The database does not answer yet: %s", str(error).strip())
    connection.close()


def start_worker_heartbeat(name: str) -> None:
    """Start the thread; `name` is the worker's."""
    write_backlog.is_served = True
    threading.Thread(target=_run, args=(name,), name="worker-heartbeat", daemon=True).start()


def _run(name: str) -> None:
    while True:
        write_backlog.added.wait(renewal_seconds())
        write_backlog.added.clear()
        try:
            with no_fork():
                _beat(name)
                write_backlog.flush()
        except Error as error:
            logger.warning("This worker could not write: %s. It tries again in a moment.", str(error).strip())
            connection.close()
        except Exception:
            logger.exception("Something could not be written, and is dropped.")


def _beat(name: str) -> None:
    Worker.objects.bulk_create(
        [Worker(id=WORKER_ID, name=name, seen_at=timezone.now())],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["seen_at"],
    )
