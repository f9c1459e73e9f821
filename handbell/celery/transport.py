"""kombu's Redis transport with priorities as RabbitMQ has them: 9 is taken first; and with a server that takes nothing
because its memory or its disk is full waited for, as one that is down.

It is imported once a connection to Redis or Valkey is made, so without the Redis client other brokers can be used.
"""

from collections.abc import Callable
from typing import Any

from kombu.transport import redis

from handbell.embedded.broker import CALL_SECONDS, embedded_broker

client_errors: Any = redis.redis.exceptions  # type: ignore[attr-defined]  # of the client, as kombu has it
#: What a server says to every command that writes, and to PING, while it cannot write its own file.
CANNOT_WRITE = "MISCONF"
#: Nothing has this name, so a command that writes only if it is there changes nothing. Kombu's own names begin like it.
NO_KEY = "_kombu.binding.handbell.no-key"


class ServerCannotWrite(client_errors.ResponseError):  # type: ignore[misc]
    """The server takes nothing, because it cannot write to its disk."""


class _TellsWhyNothingIsTaken:
    """For a connection to the server: this error has a class of its own, as that of a full memory has."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """
        Raises:
            ServerCannotWrite: the server cannot write to its disk.
        """
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except client_errors.ResponseError as error:
            if str(error).startswith(CANNOT_WRITE):
                raise ServerCannotWrite(*error.args) from error
            raise


class AcknowledgementQoS(redis.QoS):
    """What has been received and not acknowledged.

    In kombu's own class, an acknowledgement that does not reach the server keeps its message's place for ever: a worker
    with as many of them as it may hold messages receives no more, without a word. Here the place is free at once, and
    the acknowledgement is sent again with the next one.
    """

    _quick_ack: Callable[[str], None]  # the stubs do not have these
    _remove_from_indices: Callable[[str, Any], Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unsent: set[str] = set()

    def ack(self, delivery_tag: str) -> None:
        self._quick_ack(delivery_tag)
        self._unsent.add(delivery_tag)
        tags = set(self._unsent)
        with self.pipe_or_acquire() as pipe:
            for tag in tags:
                self._remove_from_indices(tag, pipe)
            pipe.execute()
        self._unsent -= tags

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            self.ack(delivery_tag)
            return
        try:
            super().reject(delivery_tag, requeue=True)
        finally:  # the server keeps what was not given back, and gives it to others once it has been out for too long
            self._quick_ack(delivery_tag)


class PriorityChannel(redis.Channel):
    QoS = AcknowledgementQoS

    def _get_message_priority(self, message: dict[str, Any], reverse: bool = False) -> int:
        """The list that a message goes to; Redis reads list 0 first, so priority 9 goes there.

        A message without a priority counts as 0, the lowest, as on RabbitMQ.
        """
        return int(super()._get_message_priority(message, reverse=not reverse))

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """How to connect: by TCP, with TLS or by a socket file, each with a class of its own."""
        found: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]  # not in the stubs
        base = found["connection_class"]
        return found | {"connection_class": type(base.__name__, (_TellsWhyNothingIsTaken, base), {})}

    def refusal(self) -> str:
        """Why the server takes no messages, in its own words; "" if it takes them."""
        try:
            self.client.set(NO_KEY, "", xx=True)
        except client_errors.NoPermissionError:  # this user may write elsewhere
            return ""
        except client_errors.ResponseError as error:
            return str(error)
        return ""


class PriorityTransport(redis.Transport):
    """A worker that took a full server for a fault of its own would end."""

    Channel = PriorityChannel
    connection_errors = (*redis.Transport.connection_errors, client_errors.OutOfMemoryError, ServerCannotWrite)

    def establish_connection(self) -> Any:
        """Again and again, while a worker waits for its broker: the embedded one must run then."""
        broker = embedded_broker()
        if self.client is not None and f"redis+{self.client.hostname}" == broker.url:
            broker.attach(CALL_SECONDS)
        return super().establish_connection()
