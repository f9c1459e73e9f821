"""Celery's `AMQP`, which builds the messages."""

from functools import cached_property
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP


class HandbellAMQP(AMQP):
    @cached_property
    def _event_dispatcher(self) -> Any:
        """Celery's own, which is never used but wants a connection: no embedded broker is started for that."""
        return self.app.events.Dispatcher(Celery.connection_for_write(self.app), enabled=False)
