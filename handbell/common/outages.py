"""Database errors that mean that the database is temporarily unavailable: recognising them, and retrying."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, Error, InterfaceError, OperationalError, connection

T = TypeVar("T")
RETRY_SECONDS, FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 60.0, 0.05, 2.0
#: What an outage raises. Catch these around work on the ledger; ask `is_outage` where the user's own statements run.
OUTAGE_ERRORS = (OperationalError, InterfaceError)
logger = logging.getLogger(__name__)


def is_outage(error: BaseException) -> bool:
    """Whether the database could not be reached, which psycopg2 has several names for, or was too busy.

    SQLite raises the same error for a wrong statement, but with an error code of its own. One of these is no wrong
    statement, but a connection that was interrupted in the middle of BEGIN, and that a new one puts right.
    """
    if getattr(error.__cause__, "sqlite_errorname", "") == "SQLITE_ERROR":
        return "transaction within a transaction" in str(error)
    return isinstance(error, OUTAGE_ERRORS) or type(error) is DatabaseError


def retry_through_outage(write: Callable[[], T], seconds: float = RETRY_SECONDS) -> T:
    """Call `write`, again and on a new connection while the database is unavailable, for up to `seconds`.

    Raises:
        django.db.Error: the database was unavailable all that time, or something else was wrong.
    """
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
    while True:
        try:
            return write()
        except Error as error:
            if not is_outage(error) or connection.in_atomic_block or time.monotonic() > deadline:
                raise
            connection.close()  # it may have been cut long ago, and a new one is all that is needed
            if pause > FIRST_PAUSE_SECONDS:
                logger.warning("The database does not answer: %s. It is tried again in a moment.", str(error).strip())
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
