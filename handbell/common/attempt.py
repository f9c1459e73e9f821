"""Writes of the threads that look after a worker: one that fails is tried again later, and ends no thread."""

import logging
from collections.abc import Callable

from django.db import Error, connection

from handbell.common.fork_lock import no_fork

logger = logging.getLogger(__name__)


def attempt(write: Callable[[], object]) -> bool:
    """Call `write`, whatever comes of it; whether that went well. If it did not, it is logged."""
    try:
        with no_fork():
            write()
    except Error as error:
        logger.warning("This worker could not write: %s. It tries again in a moment.", str(error).strip())
        connection.close()
        return False
    except Exception:
        logger.exception("This worker could not write. It tries again in a moment.")
        connection.close()
        return False
    return True
