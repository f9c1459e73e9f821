"""A producer that publishes nothing: Celery builds a message for it, and the ledger keeps that."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from kombu import serialization
from kombu.exceptions import EncodeError

from handbell.plain.message import Message

#: What `Producer.publish` is told about one attempt, not about the message.
_ATTEMPT = ("declare", "retry", "retry_policy", "timeout", "confirm_timeout")


class CapturingProducer:
    """Takes the place of kombu's producer when Celery publishes, and keeps the message that it was to publish."""

    serializer = None
    compression = None

    def __init__(self) -> None:
        self.connection = self
        self.captured: Message | None = None

    @contextmanager
    def _reraise_as_library_errors(self) -> Iterator[None]:
        yield

    def publish(self, body: Any, serializer: str | None = None, **options: Any) -> None:
        """Encode the message and keep it.

        Raises:
            kombu.exceptions.EncodeError: the serializer cannot hold the arguments.
        """
        payload: Any
        try:
            content_type, encoding, payload = serialization.dumps(body, serializer)
        except EncodeError as error:
            if isinstance(error.__context__, RecursionError):
                raise EncodeError("Arguments cannot be stored: they are nested too deeply.") from error
            raise
        if isinstance(payload, bytes):
            payload = {"base64": base64.b64encode(payload).decode()}
        declared = options.get("declare") or ()
        queue = declared[0].name if declared else str(options.get("routing_key"))
        kept = {name: value for name, value in options.items() if name not in _ATTEMPT and value is not None}
        self.captured = Message(payload, {**kept, "content_type": content_type, "content_encoding": encoding}, queue)

    def keep_event(self, fields: dict[str, Any]) -> None:
        """Keep the event about the message: it is sent with it."""
        assert self.captured is not None
        self.captured = replace(self.captured, sent_event=fields)
