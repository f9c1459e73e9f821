"""What a worker does with a message that makes no sense: it is refused, and the worker goes on.

Celery's own consumer refuses what it has thought of. Anything else that is raised while a message is looked at ends the
worker, unacknowledged, and then the next one that gets it.
"""

import errno
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from amqp.exceptions import ConsumerCancelled
from celery.exceptions import InvalidTaskError
from celery.worker import loops
from celery.worker.consumer import Consumer

from handbell.arguments import MAX_NAME_CHARACTERS, shown
from handbell.plain.message import ENQUEUED_AT

#: https://docs.celeryq.dev/en/stable/internals/protocol.html#definition
HEADERS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "task": str,
    "root_id": str,
    "parent_id": str,
    "group": str,
    "group_index": int,
    "shadow": str,
    "argsrepr": str,
    "kwargsrepr": str,
    "origin": str,
    "eta": (str, datetime),
    "expires": (str, datetime),
    "retries": int,
    "timelimit": (list, tuple),
    "ignore_result": (bool, int),
    "replaced_task_nesting": int,
    "stamps": dict,
    "stamped_headers": (list, tuple),
    ENQUEUED_AT: str,
}
logger = logging.getLogger(__name__)


def _quick_drain(connection: Any, timeout: float = 0.1) -> None:
    """Take the place of Celery's function of this name, which a consumer begins with: it forgets any error without a
    number. One of these says that the queue was deleted just now; a worker that forgets it gets no messages any more.
    """
    try:
        connection.drain_events(timeout=timeout)
    except ConsumerCancelled:
        raise
    except Exception as error:
        if getattr(error, "errno", None) not in {None, errno.EAGAIN}:
            raise


assert "_quick_drain" in vars(loops), "Celery has another name for it"
vars(loops)["_quick_drain"] = _quick_drain


class RefusingConsumer(Consumer):
    """Celery's consumer, which refuses whatever message it cannot make a task's request of."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        handle = super().create_task_handler(*args, **kwargs)
        connection_errors: tuple[type[Exception], ...] = tuple(self.connection_errors)  # type: ignore[attr-defined]

        def on_task_received(message: Any) -> Any:
            try:
                _require_sense(message.headers)
                return handle(message)
            except connection_errors:
                raise
            except Exception as error:
                if message.acknowledged:  # it was refused, and that could not be written
                    logger.exception("A message that was refused cannot be said to be.")
                    return None
                return self.on_invalid_task(None, message, _as_invalid(error))

        return on_task_received


def _require_sense(headers: Any) -> None:
    """
    Raises:
        celery.exceptions.InvalidTaskError: a header that Celery reads later, where nobody refuses the message any more,
            is not what it must be.
    """
    for name in headers or ():
        value, kinds = headers[name], HEADERS.get(name, object)
        if value is not None and not isinstance(value, kinds):
            raise InvalidTaskError(f"its header {name} is {shown(value)}")
    limits = (headers or {}).get("timelimit") or (None, None)
    if len(limits) != 2 or not all(limit is None or isinstance(limit, int | float) for limit in limits):
        raise InvalidTaskError(f"its header timelimit is {shown(limits)}")
    if len((headers or {}).get("id") or "") > MAX_NAME_CHARACTERS:
        raise InvalidTaskError("its header id is too long")


def _as_invalid(error: Exception) -> InvalidTaskError:
    invalid = InvalidTaskError(f"its message makes no sense: {type(error).__name__}: {error}")
    invalid.__cause__ = error
    return invalid
