"""What serial and isolated tasks have in common: a call is a row in a ledger, not a message."""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from asgiref.sync import sync_to_async
from celery import Task
from celery.backends.base import Backend
from celery.exceptions import Ignore
from celery.result import AsyncResult
from celery.utils.imports import symbol_by_name

from handbell.conf import conf

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

DATABASE_BACKEND = "handbell.celery.backend:DatabaseBackend"

#: Options about the message, which beat, the admin and Celery itself pass along. A row needs no message.
# fmt: off
IGNORED_OPTIONS = frozenset(
    {
        "connection", "exchange", "headers", "ignore_result", "parent_id", "periodic_task_name", "priority",
        "producer", "queue", "retry", "retry_policy", "root_id", "router", "routing_key", "serializer", "shadow",
    }
)
# fmt: on


class LedgerTask(Task[P, R_co], Generic[P, R_co]):
    """A task whose calls are written to a ledger with the caller's own transaction. `P` is what a call takes.

    It is a Celery task, too: a message with its name, from beat or from another program, becomes a row.
    """

    abstract = True
    ignore_result = True  # the row holds the result
    can_be_mapped = False  # a job calls functions, and this one has to be enqueued

    @property  # type: ignore[misc]  # nobody sets it
    def backend(self) -> Backend:
        """Results are in the ledger, wherever those of plain tasks are kept."""
        database_backend: type[Backend] = symbol_by_name(DATABASE_BACKEND)
        return self.app.backend if isinstance(self.app.backend, database_backend) else database_backend(app=self.app)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """In a worker, enqueue; anywhere else, call the function itself, as with any Celery task."""
        if self.request.called_directly:
            return self.run(*args, **kwargs)
        if conf.UNRECORDED_CALLS == "refuse":
            logger.warning("%s %s is refused: its call is not recorded in the ledger.", self.name, self.request.id)
            raise Ignore
        self.apply_async(args, kwargs, task_id=self.request.id)
        return cast("R_co", None)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R_co]:
        """Enqueue one call in the current transaction, and return at once."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R_co]:
        """`delay`, for async callers."""
        return await sync_to_async(self.apply_async)(args, kwargs)

    def refuse_options(self, options: Mapping[str, Any], kind: str, takes: str) -> None:
        """Refuse options that would change nothing.

        Raises:
            TypeError: there are some; the message names them, and says what such a task takes.
        """
        if unknown := [name for name, value in options.items() if value and name not in IGNORED_OPTIONS]:
            raise TypeError(f"{self.name} is {kind} and does not take {', '.join(unknown)}. It takes {takes}.")


class ManyResults(Sequence[AsyncResult[R_co]]):
    """The results of many calls, in their order. The ids are worked out, not stored."""

    def __init__(self, prefix: str, length: int, result: Callable[[str], AsyncResult[R_co]]) -> None:
        self._prefix, self._length, self._result = prefix, length, result

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> AsyncResult[R_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AsyncResult[R_co]]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult[R_co] | Sequence[AsyncResult[R_co]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._length))]
        return self._result(numbered_task_id(self._prefix, range(self._length)[index]))

    @property
    def ids(self) -> Iterator[str]:
        """The ids, one after the other."""
        return (numbered_task_id(self._prefix, number) for number in range(self._length))


def new_id_prefix() -> str:
    """What the ids of many calls begin with."""
    return uuid.uuid4().hex[:24]


def numbered_task_id(prefix: str, number: int) -> str:
    return f"{prefix[:8]}-{prefix[8:12]}-{prefix[12:16]}-{prefix[16:20]}-{prefix[20:]}{number:08x}"
