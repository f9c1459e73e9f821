"""The Celery app."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.result import AsyncResult
from celery.signals import setup_logging
from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES

from project.embedded import CALL_SECONDS

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# Redis takes the lowest priority number first; ours takes the highest, as RabbitMQ does.
for _scheme in ("redis", "rediss"):
    TRANSPORT_ALIASES[_scheme] = "project.transport:Transport"


class ProjectAMQP(AMQP):
    @cached_property
    def _event_dispatcher(self) -> Any:
        """Celery's, which is never used but wants a connection: it starts no broker for that."""
        return self.app.events.Dispatcher(Celery.connection_for_write(self.app), enabled=False)


class ProjectCelery(Celery):
    """Celery, with every call of a plain task recorded, and with the embedded broker there whenever a connection is
    made and no other broker is configured.
    """

    amqp_cls = "project.celery:ProjectAMQP"
    task_cls = "tasks_app.plain.task:PlainTask"

    def send_task(  # type: ignore[override]
        self, name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> "AsyncResult[Any]":
        from tasks_app.plain.enqueue import send_task  # noqa: PLC0415  (needs the settings, which import this)

        return send_task(self, super().send_task, name, args, kwargs, **options)

    @contextmanager
    def producer_or_acquire(self, producer: Any = None) -> Iterator[Any]:  # type: ignore[override]
        """A canvas takes one for all its messages. Here each goes its own way, so it needs no broker to be there."""
        from tasks_app.plain.message import Recorder  # noqa: PLC0415

        yield producer or Recorder()

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Connection:
        self._attach()
        return super().connection_for_read(url, **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Connection:
        self._attach(CALL_SECONDS)
        return super().connection_for_write(url, **kwargs)

    def _attach(self, seconds: float | None = None) -> None:
        from django.conf import settings  # noqa: PLC0415  (settings import this package first)

        if settings.EMBEDDED_BROKER_USED:
            settings.EMBEDDED_BROKER.attach(seconds)


app = ProjectCelery("project")
app.config_from_object("django.conf:settings", namespace="CELERY")
# Celery closes the database connection around every task unless this is set; `tasks_app.plain.connections` closes
# those that are broken. https://github.com/celery/celery/blob/main/celery/fixups/django.py
app.conf["CELERY_DB_REUSE_MAX"] = 1_000_000
app.autodiscover_tasks()


@setup_logging.connect
def use_django_logging(**kwargs: Any) -> None:
    """Leave logging as Django's LOGGING set it up; that this is connected stops Celery from changing it."""
