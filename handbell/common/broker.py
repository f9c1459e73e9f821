"""Sending messages to the broker, and asking whether it is there.

No message carries state that is not in the ledger too, so one that does not get through is only sent again later, by
the sweeper.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from celery import current_app
from kombu import Producer
from kombu.exceptions import OperationalError

from handbell.arguments import require_integer
from handbell.errors import BrokerRefuses, BrokerUnavailable

BACKOFF_SECONDS = 1.0
FAST_FAILURE_SECONDS = 0.5
LOOK_SECONDS = 1  # for which the broker may take to say how long a queue is
LOOK_AGAIN_SECONDS = 0.9  # the sweeper looks every second
NO_QUEUE = "handbell.nothing"  # where a message goes that nobody is to get
#: What Redis and Valkey say when their disk or their memory is full.
REFUSALS = ("MISCONF", "OOM ", "'maxmemory'")
ERRORS = (OperationalError, OSError, BrokerUnavailable)
logger = logging.getLogger(__name__)


class _Backoff:
    """After a failure nobody in this process tries again for a moment, so that callers do not wait for it one by
    one.
    """

    until = 0.0


def send_message(task: str, args: Sequence[Any], queue: str, what: str, priority: int | None = None) -> bool:
    """Send the message `task(*args)` to `queue`: a doorbell. If the broker does not answer, log that `what` was not
    sent; whether it was.
    """
    options: dict[str, Any] = {} if priority is None else {"priority": priority}
    return publish(
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
    """Return once the broker answers, and takes messages.

    Raises:
        BrokerRefuses: it answers, and takes none: its memory or its disk is full.
        BrokerUnavailable: it does not answer within about twice `seconds`.
        TypeError, ValueError: `seconds` is no whole number from 1.
    """
    require_integer("seconds", seconds, 1, 86_400)
    with broker_errors(), _short_connection(seconds) as connection:
        if said := _refusal(connection):
            raise BrokerRefuses(refusal_sentence(connection.as_uri(), said))


def _refusal(connection: Any) -> str:
    """Why the broker takes no messages; "" if it takes them, or does not say."""
    channel = connection.default_channel
    if hasattr(channel, "refusal"):
        return str(channel.refusal())
    return _alarm(connection, channel) if is_amqp(current_app.conf.broker_url) else ""


def _alarm(connection: Any, channel: Any) -> str:
    """RabbitMQ tells whoever publishes that its memory or disk is full, and reads nothing more from there.
    https://www.rabbitmq.com/docs/connection-blocked
    """
    said: list[str] = []
    connection.connection.on_blocked = said.append
    try:
        channel.basic_publish(channel.prepare_message(b""), exchange="", routing_key=NO_QUEUE)
        channel.basic_qos(0, 1, False)  # it is answered, unless the one before was not taken
    except connection.channel_errors:
        return ""  # this user may write elsewhere
    except OSError:
        if not said:
            raise
    return "its memory or its disk is full" if said else ""


@contextmanager
def broker_errors() -> Iterator[None]:
    """
    Raises:
        BrokerRefuses: in the block, the broker took no messages.
        BrokerUnavailable: in the block, it did not answer.
    """
    connection: Any = current_app.connection()
    try:
        yield
    except BrokerUnavailable:
        raise
    except (*ERRORS, *connection.connection_errors, *connection.channel_errors) as error:
        said, address = str(error).rstrip("."), connection.as_uri()
        if any(words in said for words in REFUSALS):
            raise BrokerRefuses(refusal_sentence(address, said)) from error
        raise BrokerUnavailable(
            f"The broker at {address} does not answer ({said or type(error).__name__}). "
            "Start it with the rest of the system, or correct CELERY_BROKER_URL."
        ) from error


@contextmanager
def _short_connection(seconds: int) -> Iterator[Any]:
    """A connection of its own, of which nothing takes longer than `seconds`.

    Raises:
        kombu.exceptions.OperationalError, OSError: the broker does not answer.
    """
    if is_amqp(current_app.conf.broker_url):
        options = {"read_timeout": seconds, "write_timeout": seconds}
    else:
        options = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    with current_app.connection_for_write(connect_timeout=seconds, transport_options=options) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=seconds)
        yield connection


def refusal_sentence(broker: str, said: str) -> str:
    """That this broker takes no messages, with what it said."""
    return (
        f"The broker at {broker} takes no messages ({said.rstrip('.')}). Give it more memory, or room on its disk. "
        "What is called meanwhile is recorded, and is sent once it takes messages again."
    )


def first_url(broker_url: str | Sequence[str]) -> str:
    """Celery takes one URL, several with semicolons between them, or a list."""
    return broker_url.split(";")[0] if isinstance(broker_url, str) else broker_url[0]


def is_amqp(broker_url: str | Sequence[str]) -> bool:
    return first_url(broker_url).startswith(("amqp", "pyamqp"))


def is_redis(broker_url: str | Sequence[str]) -> bool:
    return first_url(broker_url).startswith("redis")


class _EmptyQueues:
    """Whether queues were empty at the last look at them, and when that was; and when the broker last did not say."""

    seen: ClassVar[dict[str, tuple[bool, float]]] = {}
    unknown_at = -LOOK_AGAIN_SECONDS


def is_queue_empty(queue: str) -> bool:
    """Whether no message was in the queue at the last look, which is from the last second; False if the broker does not
    say, which for that second holds for every queue.
    """
    now = time.monotonic()
    was_empty, looked_at = _EmptyQueues.seen.get(queue, (False, -LOOK_AGAIN_SECONDS))
    if now - looked_at < LOOK_AGAIN_SECONDS:
        return was_empty
    if now - _EmptyQueues.unknown_at < LOOK_AGAIN_SECONDS:
        return False
    is_empty = _is_queue_empty(queue)
    if is_empty is None:
        _EmptyQueues.unknown_at = time.monotonic()
        return False
    _EmptyQueues.seen[queue] = is_empty, now
    return is_empty


def _is_queue_empty(queue: str) -> bool | None:
    """None if the broker does not say."""
    try:
        with _short_connection(LOOK_SECONDS) as connection:
            try:
                return not connection.default_channel.queue_declare(queue=queue, passive=True).message_count
            except connection.channel_errors:
                return True  # Redis has no empty lists
            except connection.connection_errors:
                return None
    except (OperationalError, OSError):
        return None
