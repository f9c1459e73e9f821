"""Writing to a database that may be away for a while."""

import logging
import os
import time
from collections.abc import Callable

from django.db import DatabaseError, Error, InterfaceError, OperationalError, connection

from tasks_app.plain import ledger
from tasks_app.plain.undone import undone

INSIST_SECONDS, FIRST_PAUSE, LAST_PAUSE = 60.0, 0.05, 2.0
logger = logging.getLogger(__name__)


def was_cut(error: Error) -> bool:
    """Whether the database could not be reached, which psycopg2 has several names for, or was too busy for us."""
    return isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError


def insist(write: Callable[[], bool]) -> bool:
    """Do what `write` does, on a new connection if need be, for up to a minute.

    Raises:
        django.db.Error: the database could not be reached all that time, or something else was wrong.
    """
    deadline, pause = time.monotonic() + INSIST_SECONDS, FIRST_PAUSE
    while True:
        try:
            return write()
        except Error as error:
            if not was_cut(error) or connection.in_atomic_block or time.monotonic() > deadline:
                raise
            connection.close()  # it may have been cut long ago, and a new one is all that is needed
            if pause > FIRST_PAUSE:
                logger.warning("The database does not answer: %s. It is tried again in a moment.", str(error).strip())
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)


def insist_or_end(write: Callable[[], bool], what: str) -> bool:
    """`insist`. If the database stays away, a child process ends, so that what it has not written runs again; a worker
    whose tasks are threads leaves it to its keeper.

    Raises:
        django.db.Error: as `insist` does, where there is no worker.
    """
    try:
        return insist(write)
    except Error as error:
        if not was_cut(error) or connection.in_atomic_block:
            raise
        if os.getpid() == ledger.Process.main:
            if not undone.kept:
                raise
            undone.see_to(write)
            return True
        logger.exception("%s could not be stored. This process ends, and what it did runs again.", what)
        logging.shutdown()
        os._exit(os.EX_TEMPFAIL)
