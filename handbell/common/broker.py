"""Sending messages to the broker, and asking whether it is there.

No message carries state that is not in the ledger too, so one that does not get through is only sent again later, by
the sweeper.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery import current_app
from kombu import Producer
from kombu.exceptions import OperationalError

from handbell.errors import BrokerUnavailable

BACKOFF_SECONDS = 1.0
FAST_FAILURE_SECONDS = 0.5
ERRORS = (OperationalError, OSError, BrokerUnavailable)
logger = logging.getLogger(__name__)


class _Backoff:
    """After a failure nobody in this process tries again for a moment, so that callers do not wait for it one by
    one.
    """

    until = 0.0


def send_message(task: str, args: Sequence[Any], queue: str, what: str, priority: int | None = None) -> None:
    """Send the message `task(*args)` to `queue`: a doorbell. If the broker does not answer, log that `what` was not
    sent.
    """
    options: dict[str, Any] = {} if priority is None else {"priority": priority}
    publish(
        lambda producer: current_app.send_task(
            task, args, queue=queue, ignore_result=True, retry=False, producer=producer, **options
        ),
        what,
    )


def publish(message: Callable[[Producer], object], what: str, producer: Producer | None = None) -> bool:
    """Call `message` with a producer that it may publish with, by default one of the app's; whether the broker has
    confirmed it.

    A broker that does not answer is given up within three seconds.
    """
    started = time.monotonic()
    if started < _Backoff.until:
        return False
    try:
        try:
            _publish(message, producer)
        except ERRORS:
            if time.monotonic() - started > FAST_FAILURE_SECONDS:
                raise
            _publish(message)  # the connection had been cut since its last use
    except ERRORS as error:
        _Backoff.until = time.monotonic() + BACKOFF_SECONDS
        said = str(error) or "no answer"
        logger.warning("%s was not sent: %s. It is sent once the broker answers.", what, said)
        return False
    return True


def _publish(message: Callable[[Producer], object], own_producer: Producer | None = None) -> None:
    if own_producer is not None:
        message(own_producer)
        return
    with current_app.producer_pool.acquire(block=True) as producer:
        connection: Any = producer.connection
        try:
            with connection._reraise_as_library_errors():  # noqa: SLF001  (as Celery itself does)
                message(producer)
        except BaseException:
            connection.collect(socket_timeout=0.1)  # it may be in the middle of a message, so it must not be used again
            raise


def require_broker(seconds: int = 1) -> None:
    """Return once the broker answers.

    Raises:
        BrokerUnavailable: it does not, within about twice `seconds`.
    """
    options = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    try:
        amqp = is_amqp(current_app.conf.broker_url)
        with current_app.connection_for_write(
            connect_timeout=seconds, transport_options={} if amqp else options
        ) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=seconds)
    except (OperationalError, OSError) as error:
        address = current_app.connection().as_uri()
        raise BrokerUnavailable(
            f"The broker at {address} does not answer ({str(error).rstrip('.') or type(error).__name__}). "
            "Start it with the rest of the system, or correct CELERY_BROKER_URL."
        ) from error


def first_url(broker_url: str | Sequence[str]) -> str:
    """Celery takes one URL, several with semicolons between them, or a list."""
    return broker_url.split(";")[0] if isinstance(broker_url, str) else broker_url[0]


def is_amqp(broker_url: str | Sequence[str]) -> bool:
    return first_url(broker_url).startswith(("amqp", "pyamqp"))


def is_redis(broker_url: str | Sequence[str]) -> bool:
    return first_url(broker_url).startswith("redis")
