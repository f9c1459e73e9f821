"""What serial and isolated tasks have in common: a call is a row in a ledger, not a message."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

from asgiref.sync import sync_to_async
from celery import Task
from celery.backends.base import Backend
from celery.result import AsyncResult
from celery.utils.imports import symbol_by_name
from django.conf import settings

#: Options about the message, which beat, the admin and Celery itself pass along. A row needs no message.
# fmt: off
IGNORED_OPTIONS = frozenset(
    {
        "connection", "exchange", "headers", "ignore_result", "parent_id", "periodic_task_name", "priority",
        "producer", "queue", "retry", "retry_policy", "root_id", "router", "routing_key", "serializer", "shadow",
    }
)
# fmt: on


class LedgerTask(Task):  # type: ignore[type-arg]
    """A task whose calls are written to a ledger with the caller's own transaction.

    It is a Celery task, too: a message with its name, from beat or from another program, becomes a row.
    """

    abstract = True
    ignore_result = True  # the row holds the result
    called_in_process = False  # a job does not map it

    @property  # type: ignore[misc]  # nobody sets it
    def backend(self) -> Backend:
        """Results are in the ledger, wherever those of plain tasks are kept."""
        if settings.CELERY_RESULT_BACKEND == settings.DATABASE_BACKEND:
            return self.app.backend
        ledger: Backend = symbol_by_name(settings.DATABASE_BACKEND)(app=self.app)
        return ledger

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """In a worker, enqueue; anywhere else, call the function itself, as with any Celery task."""
        if self.request.called_directly:
            return self.run(*args, **kwargs)
        self.apply_async(args, kwargs, task_id=self.request.id)
        return None

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Enqueue one call in the current transaction, and return at once."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """`delay`, for async callers."""
        return await sync_to_async(self.apply_async)(args, kwargs)

    def refuse(self, options: Mapping[str, Any], kind: str, takes: str) -> None:
        """Refuse options that would change nothing.

        Raises:
            TypeError: there are some; the message names them, and says what such a task takes.
        """
        if unknown := [name for name, value in options.items() if value and name not in IGNORED_OPTIONS]:
            raise TypeError(f"{self.name} is {kind} and does not take {', '.join(unknown)}. It takes {takes}.")


class ManyResults(Sequence[AsyncResult[Any]]):
    """The results of many calls, in their order. The ids are worked out, not stored."""

    def __init__(self, prefix: str, length: int, result: Callable[[str], AsyncResult[Any]]) -> None:
        self._prefix, self._length, self._result = prefix, length, result

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> AsyncResult[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AsyncResult[Any]]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult[Any] | Sequence[AsyncResult[Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._length))]
        return self._result(id_of(self._prefix, range(self._length)[index]))

    @property
    def ids(self) -> Iterator[str]:
        """The ids, one after the other."""
        return (id_of(self._prefix, number) for number in range(self._length))


def new_prefix() -> str:
    """What the ids of many calls begin with."""
    return uuid.uuid4().hex[:24]


def id_of(prefix: str, number: int) -> str:
    return f"{prefix[:8]}-{prefix[8:12]}-{prefix[12:16]}-{prefix[16:20]}-{prefix[20:]}{number:08x}"
