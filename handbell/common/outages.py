"""Database errors that mean that the database is temporarily unavailable: recognising them, and retrying."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, Error, InterfaceError, InternalError, OperationalError, connection

T = TypeVar("T")
RETRY_SECONDS, FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 60.0, 0.05, 2.0
#: PostgreSQL says so of every statement after one that failed, until the transaction ends.
IN_FAILED_TRANSACTION = "25P02"
logger = logging.getLogger(__name__)


def is_outage(error: BaseException) -> bool:
    """Whether the database could not be reached, may not be written to, is too busy, or has a fault of its own: what
    is not said of the statement itself, or of what it was to write.

    psycopg2 has several names for it; a standby that takes over is an InternalError until it does. SQLite raises the
    same error for a wrong statement, but with an error code of its own. One of these is no wrong statement, but a
    connection that was interrupted in the middle of BEGIN, and that a new one puts right.
    """
    if getattr(error.__cause__, "sqlite_errorname", "") == "SQLITE_ERROR":
        return "transaction within a transaction" in str(error)
    if isinstance(error, InternalError):
        return sqlstate(error) != IN_FAILED_TRANSACTION
    return isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError


def lacks_resources(error: BaseException) -> bool:
    """Whether the database has no room on its disk, no memory or no connections left, or is being shut down: whoever
    asked for something is not at fault. https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    if getattr(error.__cause__, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return True
    return isinstance(error, Error) and (sqlstate(error) or "").startswith(("53", "57P", "58"))


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code for an error, as psycopg2 and psycopg name it."""
    cause = error.__cause__
    return getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)


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
