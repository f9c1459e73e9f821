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
