"""The class of every `@shared_task`: written as Celery's documentation says, with its state known from the call on."""

from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.contrib.django.task import DjangoTask
from celery.exceptions import Ignore
from celery.utils.log import get_logger
from django.db import connections

from handbell.celery.backend import DatabaseBackend

logger = get_logger(__name__)


class PlainTask(DjangoTask):  # type: ignore[type-arg]
    """A Celery task. A worker claims its call in the ledger before it runs it, so a second message starts nothing."""

    abstract = True
    claims = 1  # calls that a process claims at a time (see plain/batching.py): more, for tasks that take milliseconds
    max_crashes = 3  # processes that may die while they run one call before it is lost; 1: it never runs a second time
    Request = "handbell.celery.request:PlainRequest"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """In a worker, claim the call and run it; anywhere else, call the function itself."""
        request: Any = self.request
        if request.called_directly or request.is_eager or getattr(request, "claimed", None) is True:
            return super().__call__(*args, **kwargs)
        try:
            self._claim(request)
            return self.run(*args, **kwargs)
        except SoftTimeLimitExceeded:
            drop_connections()  # before the failure is stored: what was interrupted may be a BEGIN or a COMMIT
            raise

    def _claim(self, request: Any) -> None:
        claimed, request.claimed = getattr(request, "claimed", None), True
        if claimed is None and is_recorded(self, request.ignore_result):
            backend: Any = self.app.backend
            if not backend.claim(request):
                logger.info("%s %s is dropped: it has run, or runs elsewhere.", self.name, request.id)
                raise Ignore


def drop_connections() -> None:
    """Close the connections to all databases, whose state is unknown. New ones are made when they are needed."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def is_recorded(task: Any, ignore_result: bool | None) -> bool:
    """Whether calls of this task are recorded: those of plain tasks whose result somebody may ask for.

    `ignore_result=True`, and another result backend, leave a task with Celery's bare speed, and its guarantees.
    """
    if not isinstance(task, PlainTask) or not isinstance(task.app.backend, DatabaseBackend):
        return False
    return not (task.ignore_result if ignore_result is None else ignore_result)
