"""Storing what a task returned, even if the database is unavailable for a while."""

import logging
import os
from collections.abc import Callable

from django.db import Error, connection

from handbell.common.outages import RETRY_SECONDS, is_outage, retry_through_outage
from handbell.common.worker_id import is_main_process
from handbell.plain.write_backlog import write_backlog

logger = logging.getLogger(__name__)


def store_or_exit(write: Callable[[], bool], what: str) -> bool:
    """Call `write`, and retry for a minute while the database is unavailable.

    If it stays away, a child process ends, so that what it has not written runs again; a worker whose tasks are threads
    leaves it to its backlog.

    Raises:
        django.db.Error: something else was wrong, or there is no worker.
    """
    try:
        return retry_through_outage(write, RETRY_SECONDS)
    except Error as error:
        if not is_outage(error) or connection.in_atomic_block:
            raise
        if is_main_process():
            if not write_backlog.is_served:
                raise
            write_backlog.add(write)
            return True
        logger.exception("%s could not be stored. This process ends, and what it did runs again.", what)
        logging.shutdown()
        os._exit(os.EX_TEMPFAIL)
