"""Messages of plain tasks: Celery makes them, the ledger keeps them, the broker is given them as often as needed."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery import Celery
from kombu import Producer, serialization
from kombu.utils.json import dumps, loads

#: What `Producer.publish` is told about one attempt, not about the message.
_ATTEMPT = ("declare", "retry", "retry_policy", "timeout", "confirm_timeout")


class Recorder:
    """Takes the place of kombu's producer when Celery publishes, and keeps what it was to publish."""

    serializer = None
    compression = None

    def __init__(self) -> None:
        self.connection = self
        self.published: Message | None = None

    @contextmanager
    def _reraise_as_library_errors(self) -> Iterator[None]:
        yield

    def publish(self, body: Any, serializer: str | None = None, **options: Any) -> None:
        """Encode the message and keep it; an event about it, which comes after it, is left out.

        Raises:
            kombu.exceptions.EncodeError: the serializer cannot hold the arguments.
        """
        if self.published is not None:
            return
        payload: Any
        content_type, encoding, payload = serialization.dumps(body, serializer)
        if isinstance(payload, bytes):
            payload = {"base64": base64.b64encode(payload).decode()}
        declared = options.get("declare") or ()
        queue = declared[0].name if declared else str(options.get("routing_key"))
        kept = {name: value for name, value in options.items() if name not in _ATTEMPT and value is not None}
        self.published = Message(payload, {**kept, "content_type": content_type, "content_encoding": encoding}, queue)


@dataclass(frozen=True)
class Message:
    """A message as `Producer.publish` takes it: the encoded body, the options, and the name of its queue."""

    payload: str | dict[str, str]
    options: dict[str, Any] = field(repr=False)
    queue: str

    @property
    def body(self) -> str | bytes:
        return base64.b64decode(self.payload["base64"]) if isinstance(self.payload, dict) else self.payload

    @property
    def headers(self) -> dict[str, Any]:
        return dict(self.options["headers"])

    @property
    def eta(self) -> datetime | None:
        text = self.headers.get("eta")
        return datetime.fromisoformat(text) if text else None

    def request(self) -> dict[str, Any]:
        """What a worker makes of the message: the task's request."""
        kind, encoding = self.options["content_type"], self.options["content_encoding"]
        args, kwargs, embed = serialization.loads(self.body, kind, encoding, accept=[kind])
        delivery = {"routing_key": self.queue, "priority": self.options.get("priority")}
        return {**self.headers, **(embed or {}), "args": args, "kwargs": kwargs, "delivery_info": delivery}

    def as_json(self) -> str:
        return str(dumps([self.payload, self.options, self.queue]))

    @classmethod
    def from_json(cls, text: str) -> "Message":
        return cls(*loads(text))

    def publish(self, app: Celery, producer: Producer, **retry: Any) -> None:
        queue = app.amqp.queues.get(self.queue)
        producer.publish(self.body, **self.options, declare=[queue] if queue else [], **{"retry": False, **retry})
