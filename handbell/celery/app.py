"""The app class: `from handbell import Celery` in the place of `from celery import Celery`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery as CeleryApp
from celery.result import AsyncResult
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from kombu import Connection

from handbell.celery.configuration import Configuration, install_redis_transport, replace_defaults
from handbell.celery.producer import CapturingProducer
from handbell.common.ledger_task import DATABASE_BACKEND, LedgerTask
from handbell.embedded.broker import CALL_SECONDS, embedded_broker

install_redis_transport()


class Celery(CeleryApp):
    """Celery's app, with every call of a plain task recorded in the caller's transaction, and with an embedded broker
    that is there whenever a connection is made and no other broker is configured.

    Whatever the project does not configure itself has the defaults of `handbell.celery.configuration`.
    """

    amqp_cls = "handbell.celery.amqp:HandbellAMQP"
    task_cls = "handbell.celery.task:PlainTask"

    def send_task(  # type: ignore[override]
        self, name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> "AsyncResult[Any]":
        from handbell.celery.calls import send_task  # noqa: PLC0415  (it needs Django's app registry)

        return send_task(self, super().send_task, name, args, kwargs, **options)

    @contextmanager
    def producer_or_acquire(self, producer: Any = None) -> Iterator[Any]:  # type: ignore[override]
        """A canvas takes one for all its messages. The ledger gets them, together: no broker needs to be there."""
        if producer is not None:
            yield producer
            return
        from handbell.plain.enqueue import gathered_calls  # noqa: PLC0415  (it needs Django's app registry)

        with gathered_calls():
            yield CapturingProducer()

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Connection:
        self._attach_embedded_broker()
        return super().connection_for_read(url, **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Connection:
        self._attach_embedded_broker(CALL_SECONDS)
        return super().connection_for_write(url, **kwargs)

    def create_task_cls(self) -> Any:
        """
        Raises:
            django.core.exceptions.ImproperlyConfigured: Handbell is not among the installed apps.
        """
        if not apps.is_installed("handbell"):
            raise ImproperlyConfigured("'handbell' is not in INSTALLED_APPS. Add it: calls are recorded in its tables.")
        return super().create_task_cls()

    def _task_from_fun(  # type: ignore[override]
        self, fun: Any, name: Any = None, base: Any = None, bind: bool = False, **options: Any
    ) -> Any:
        return super()._task_from_fun(fun, name, base and self._recorded(base), bind, **options)

    def register_task(self, task: Any, **options: Any) -> Any:
        task = task() if isinstance(task, type) else task
        task.__class__ = self._recorded(type(task))
        return super().register_task(task, **options)

    def _recorded(self, base: Any) -> Any:
        """A class of tasks as it is, or with what records calls, if it is derived from Celery's class and not from
        ours: `class MyTask(celery.Task)` is as documented as `class MyTask(app.Task)`.
        """
        from handbell.celery.task import PlainTask  # noqa: PLC0415  (it needs Django's app registry)

        if issubclass(base, PlainTask | LedgerTask):
            return base
        return type(base.__name__, (base, self.Task), {"__module__": base.__module__, "abstract": True})

    def _load_config(self) -> Any:
        conf = super()._load_config()  # type: ignore[misc]  # the stubs do not have it
        Configuration.take_over(conf)
        replace_defaults(conf)
        return conf

    def _get_backend(self) -> Any:
        """django-celery-results' own name stands for our subclass of its backend."""
        if (self.backend_cls or self.conf.result_backend) == "django-db":
            self.backend_cls = DATABASE_BACKEND  # the setting may come from the environment, which always wins
        return super()._get_backend()  # type: ignore[misc]  # the stubs do not have it

    def _attach_embedded_broker(self, seconds: float | None = None) -> None:
        broker = embedded_broker()
        if self.conf.broker_url == broker.url:
            broker.attach(seconds)
