"""Messages of plain tasks: Celery builds them, the ledger keeps them, and they are sent as often as needed."""

import base64
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from celery import Celery, current_app
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import Producer, serialization
from kombu.utils.json import dumps, loads

#: Of a message: https://www.rabbitmq.com/docs/publishers#message-properties
PROPERTIES = (
    "app_id",
    "cluster_id",
    "content_encoding",
    "content_type",
    "correlation_id",
    "delivery_mode",
    "expiration",
    "message_id",
    "priority",
    "reply_to",
    "timestamp",
    "type",
    "user_id",
)
#: The header of a message that waits in the ledger again, because its task raised Reject.
REDELIVERED = "handbell_redelivered"
#: The header that tells a call's message from that of its retry, or of what has taken its place, with the same id.
ENQUEUED_AT = "handbell_enqueued_at"


@dataclass(frozen=True)
class Message:
    """A message as `Producer.publish` takes it: the encoded body, the options, and the name of its queue; and the event
    that says that it was sent, where `task_send_sent_event` is on.
    """

    payload: str | dict[str, str]
    options: dict[str, Any] = field(repr=False)
    queue: str
    sent_event: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def body(self) -> str | bytes:
        return base64.b64decode(self.payload["base64"]) if isinstance(self.payload, dict) else self.payload

    @property
    def headers(self) -> dict[str, Any]:
        return dict(self.options["headers"])

    @property
    def task(self) -> str:
        return str(self.options["headers"]["task"])

    @property
    def task_id(self) -> str:
        return str(self.options["headers"]["id"])

    @property
    def eta(self) -> datetime | None:
        """As a worker reads it: without a time zone, it is in Celery's."""
        return self._moment("eta")

    @property
    def expires(self) -> datetime | None:
        """When it is too late to run it."""
        return self._moment("expires")

    def _moment(self, header: str) -> datetime | None:
        moment = maybe_iso8601(self.headers.get(header))
        return maybe_make_aware(moment, current_app.timezone) if moment else None

    def request(self) -> dict[str, Any]:
        """What a worker makes of the message: the task's request."""
        kind, encoding = self.options["content_type"], self.options["content_encoding"]
        args, kwargs, embed = serialization.loads(self.body, kind, encoding, accept=[kind])
        properties = {name: self.options[name] for name in PROPERTIES if name in self.options}
        delivery = {
            "exchange": self.options.get("exchange") or "",
            "routing_key": self.queue,
            "priority": self.options.get("priority") or 0,
            "redelivered": bool(self.headers.get(REDELIVERED)),
        }
        return {
            **self.headers,
            **(embed or {}),
            "args": args,
            "kwargs": kwargs,
            "properties": properties,
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
            "delivery_info": delivery,
        }

    def redelivered(self) -> "Message":
        """The same message, as a broker delivers it again that a task has refused."""
        return replace(self, options={**self.options, "headers": {**self.headers, REDELIVERED: True}})

    def as_json(self) -> str:
        return str(dumps([self.payload, self.options, self.queue, self.sent_event]))

    @classmethod
    def from_json(cls, text: str) -> "Message":
        return cls(*loads(text))

    def publish(self, app: Celery, producer: Producer, **retry: Any) -> None:
        """Publish it, and declare its queue; `retry` are the options of `Producer.publish` about trying again."""
        queues: Any = app.amqp.queues
        names_a_queue = not self.options.get("exchange")  # else it is a routing key, and the queues are behind it
        is_known = self.queue in queues or (queues.create_missing and names_a_queue)
        declare = [queues[self.queue]] if is_known else []
        producer.publish(self.body, **self.options, declare=declare, **{"retry": False, **retry})
        self.publish_sent_event(app, producer)

    def publish_sent_event(self, app: Celery, producer: Producer) -> None:
        """Publish the event that it was sent, if there is to be one."""
        if self.sent_event:
            again = {"retry": app.conf.task_publish_retry, "retry_policy": app.conf.task_publish_retry_policy}
            amqp: Any = app.amqp
            amqp._event_dispatcher.publish("task-sent", self.sent_event, producer, **again)  # noqa: SLF001  (as Celery does)
