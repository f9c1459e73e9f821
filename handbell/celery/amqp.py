"""Celery's `AMQP`, which builds messages and holds the producers that send them."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import pools

from handbell.celery.call_run import call_run
from handbell.celery.configuration import producer_options
from handbell.celery.producer import CapturingProducer

SIMPLE_TYPES = frozenset({int, float, bool, type(None), str})
MAX_SIMPLE_ARGUMENTS, MAX_SIMPLE_CHARACTERS = 8, 100


def quick_repr(args: Any) -> str | None:
    """What Celery's `saferepr` makes of these arguments, if they are few, short and simple: then it is `repr`."""
    if type(args) not in {tuple, list} or len(args) > MAX_SIMPLE_ARGUMENTS:
        return None
    for value in args:
        if type(value) not in SIMPLE_TYPES or (type(value) is str and not _is_plain(value)):
            return None
    text = repr(args)
    return text if len(text) <= MAX_SIMPLE_CHARACTERS * MAX_SIMPLE_ARGUMENTS else None


def _is_plain(text: str) -> bool:
    return len(text) <= MAX_SIMPLE_CHARACTERS and "'" not in text and "\\" not in text and text.isprintable()


class HandbellAMQP(AMQP):
    def _retry_publish(self, publish: Callable[..., object], *args: Any, **kwargs: Any) -> Any:
        """A task that succeeds calls its links, and the next task of its chain, with this. It happens in the
        transaction that stores the result (see `DatabaseBackend.mark_as_done`).
        """
        task = self.app.current_worker_task
        run = task and call_run(task.request)
        if not run:
            return publish(*args, **kwargs)
        run.followers.append(partial(publish, *args, **kwargs))
        return None

    def as_task_v2(self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **more: Any) -> Any:
        """Celery's own, with the texts of simple arguments made in a moment."""
        if more.get("argsrepr") is None:
            more["argsrepr"] = quick_repr(args or ())
        if more.get("kwargsrepr") is None and not kwargs:
            more["kwargsrepr"] = "{}"
        return super().as_task_v2(task_id, name, args, kwargs, *rest, **more)

    @property
    def create_task_message(self) -> Any:
        """Messages of protocol 2, whatever `task_protocol` says: those of 1 have no headers to keep in the ledger."""
        return self.as_task_v2

    @cached_property
    def _event_dispatcher(self) -> Any:
        """Celery's own, which sends the event `task-sent` with the producer of the message. It wants a connection that
        it never uses: no embedded broker is started for that.
        """
        base: Any = self.app.events.Dispatcher

        class Dispatcher(base):  # type: ignore[misc]
            def publish(self, type: str, fields: dict[str, Any], producer: Any, **options: Any) -> Any:  # noqa: A002
                if isinstance(producer, CapturingProducer):
                    return producer.keep_event(fields)
                return super().publish(type, fields, producer, **options)

        return Dispatcher(Celery.connection_for_write(self.app), enabled=False)

    @property
    def producer_pool(self) -> Any:
        """Celery's own pool, but over connections that do not wait for ever for an answer."""
        if self._producer_pool is None:
            options = producer_options(self.app.conf.broker_write_url or "")
            pool: Any = pools.producers[self.app.connection_for_write(transport_options=options)]
            pool.limit = self.app.pool.limit
            self._producer_pool: Any = pool
        return self._producer_pool
