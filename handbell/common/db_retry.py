"""Writes that must not be left undone while this process lives, even if the database is unavailable for a while."""

import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import Error, connection

from handbell.common.claims import is_main_process
from handbell.common.outages import LAST_PAUSE_SECONDS, RETRY_SECONDS, is_outage, retry_through_outage
from handbell.common.write_backlog import write_backlog

T = TypeVar("T")
logger = logging.getLogger(__name__)


def write_or_exit(write: Callable[[], T], what: str) -> T | None:
    """Call `write`, and retry for a minute while the database is unavailable.

    If it stays away, a child process ends, so that whatever it has claimed is given back; a worker whose tasks are
    threads leaves the write to its backlog, and None is returned.

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
            while not write_backlog.add(write):
                time.sleep(LAST_PAUSE_SECONDS)
            return None
        logger.exception("%s could not be stored. This process ends, and what it did runs again.", what)
        logging.shutdown()
        os._exit(os.EX_TEMPFAIL)
