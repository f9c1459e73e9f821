"""Declaring a job: `over`, `map`, `reduce` and `save` say what is to be done, and `start` writes it to the ledger."""

import json
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from celery import Task, current_app
from celery.canvas import Signature
from django.db.models import QuerySet
from django.utils import timezone

from handbell import states
from handbell.arguments import require_integer, require_iterable, require_number, require_text, shown
from handbell.common.codec import encode_arguments
from handbell.conf import conf
from handbell.errors import NotJson
from handbell.parallel import doorbell
from handbell.parallel.executor import current_job_id
from handbell.parallel.feed import feed_job
from handbell.parallel.finish import finish_if_done
from handbell.parallel.import_paths import import_path
from handbell.parallel.job import Job
from handbell.queues import DEFAULT_PRIORITY, MAX_PRIORITY, default_queue, queue_names

T = TypeVar("T")
R = TypeVar("R")
F_co = TypeVar("F_co", covariant=True)
P = ParamSpec("P")

MAX_JOB_NAME_CHARACTERS = 200
#: What a column of JSON cannot hold on PostgreSQL, as JSON that is not limited to ASCII writes it.
_NOT_STORABLE_IN_JSON = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")


class SupportsRun(Protocol[F_co]):
    """A Celery task, as far as type checkers are concerned."""

    @property  # no method, so that the function may take items of a wider type
    def run(self) -> F_co: ...


class QuerySetLike(Protocol):
    """A queryset, with or without django-stubs."""

    def __iter__(self) -> Iterator[Any]: ...

    @property
    def values_list(self) -> Any: ...


@overload
def over(source: QuerySetLike) -> "Pipeline[Any]": ...
@overload
def over(source: Iterable[T]) -> "Pipeline[T]": ...
def over(source: Iterable[Any]) -> "Pipeline[Any]":
    """A pipeline over the items of `source`: a `range`, a queryset (its primary keys), or any iterable of what JSON
    can hold. It may be larger than memory.

    Raises:
        TypeError: the source is something else.
    """
    return Pipeline(require_iterable("over()", source))


@dataclass(frozen=True)
class Pipeline(Generic[T]):
    """What is to be done with each item; `T` is the type of what the last stage returns, at first that of the items.

    Each method returns a new pipeline. Nothing happens before `start`.
    """

    source: Iterable[Any]
    stages: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = ()
    first_task_queue: str = ""
    reducer: str = ""
    saver: str = ""

    @overload
    def map(
        self,
        task: SupportsRun[Callable[Concatenate[T, P], Coroutine[Any, Any, R]]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> "Pipeline[R]": ...
    @overload
    def map(
        self, task: SupportsRun[Callable[Concatenate[T, P], R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> "Pipeline[R]": ...
    def map(self, task: Any, /, *args: Any, **kwargs: Any) -> "Pipeline[Any]":
        """Call `task(item, *args, **kwargs)` in the worker's own process; a second `map` takes the first one's result.

        Raises:
            TypeError: it is no task that can be called like that.
            NotJson, ArgumentsTooLarge: the arguments cannot be stored.
        """
        given: Any = task
        if not isinstance(given, Task) and not hasattr(given, "apply_async"):
            raise TypeError(f"map() takes a task, not {shown(given)}. Put @shared_task above it.")
        if not getattr(given, "can_be_mapped", True):
            raise TypeError(f"map() cannot call {given.name}, whose calls are rows of a ledger. Call it from a task.")
        _require_storable(f"The arguments of {given.name}", (args, kwargs))
        _check_arguments(f"map() calls {given.name} with the item first", given, (None, *args), kwargs)
        queue = self.first_task_queue if self.stages else (getattr(given, "queue", None) or "")
        pipeline: Pipeline[Any] = self
        return replace(pipeline, stages=(*self.stages, (given.name, args, kwargs)), first_task_queue=queue)

    def reduce(self, function: Callable[[list[T]], T]) -> Self:
        """Fold the results into one: `function(list of results)` must return something that can stand in such a list.

        It is called with the results of each chunk, in order, and again with what it has returned for the chunks. So it
        must be associative: f([a, b, c]) == f([f([a, b]), c]).

        Raises:
            TypeError: it is neither a task nor a function at the top of a module.
        """
        return replace(self, reducer=import_path(function, "reduce()"))

    def save(self, function: Callable[[list[T]], object]) -> Self:
        """Call `function(list of results)` for each chunk, in the transaction that completes the chunk: exactly once.

        Raises:
            TypeError: it is neither a task nor a function at the top of a module.
        """
        return replace(self, saver=import_path(function, "save()"))

    def start(
        self,
        queue: str | None = None,
        *,
        name: str | None = None,
        priority: int = DEFAULT_PRIORITY,
        chunk_size: int | None = None,
        chunk_seconds: float | None = None,
        threads: int = 1,
        item_timeout: float | None = None,
        max_failures: int | None = None,
        keep_results: bool = True,
        on_success: Signature[Any] | None = None,
        on_failure: Signature[Any] | None = None,
        on_complete: Signature[Any] | None = None,
    ) -> Job:
        """Write the job to the ledger and ring once. Returns when the source has ended; for a range, at once.

        `chunk_seconds` is how long a chunk should take (otherwise HANDBELL_CHUNK_SECONDS), and `chunk_size` fixes its
        number of items. `threads` run the items of a chunk at the same time. An item that takes longer than
        `item_timeout` seconds fails. More than `max_failures` stop the job. Callbacks are signatures, called with the
        job's id first.

        Raises:
            TypeError, ValueError: an option is wrong; the message says which.
            NotJson, ArgumentsTooLarge: an item cannot be stored. The job is left with the items before it.
        """
        if not self.stages:
            raise TypeError("A job without a task does nothing: add .map(task).")
        require_integer("threads", threads, 1, 1000)
        require_integer("priority", priority, 0, MAX_PRIORITY)
        if chunk_size is not None:
            require_integer("chunk_size", chunk_size, 1, 1_000_000)
        if max_failures is not None:
            require_integer("max_failures", max_failures, 0, 10**9)
        if chunk_seconds is not None:
            require_number("chunk_seconds", chunk_seconds, 0.001, 3600)
        if item_timeout is not None:
            require_number("item_timeout", item_timeout, 0.001, 86_400)
        if name is not None:
            require_text("name", name, MAX_JOB_NAME_CHARACTERS)
        job = Job.objects.create(
            name=name or self.stages[0][0].rpartition(".")[2][:MAX_JOB_NAME_CHARACTERS],
            queue=_known_queue(queue or self.first_task_queue or default_queue()),
            priority=priority,
            parent_id=current_job_id(),
            stages=[list(stage) for stage in self.stages],
            reducer=self.reducer,
            saver=self.saver,
            callbacks=_callbacks(on_success=on_success, on_failure=on_failure, on_complete=on_complete),
            chunk_size=chunk_size,
            chunk_seconds=chunk_seconds or conf.CHUNK_SECONDS,
            threads=threads,
            item_timeout=item_timeout,
            max_failures=max_failures,
            keep_results=bool(keep_results),
            status=states.QUEUED,
            enqueued_at=timezone.now(),
            **_source_columns(self.source),
        )
        return _begin(job, self.source)


def _source_columns(source: Iterable[Any]) -> dict[str, Any]:
    """The columns of a new job that say what its source is. A range is three numbers; other items are yet to arrive."""
    columns: dict[str, Any] = {"source_state": Job.ARRIVING}
    if isinstance(source, range):
        numbers = [source.start, source.stop, source.step]
        columns |= {"source_state": Job.COMPLETE, "source": {"range": numbers}, "total": len(source)}
    return columns


def _begin(job: Job, source: Iterable[Any]) -> Job:
    """Write the items of the source, unless it is a range, and ring; a job without items ends at once."""
    if not isinstance(source, range):
        feed_job(job.pk, source.values_list("pk", flat=True).iterator() if isinstance(source, QuerySet) else source)
        job.refresh_from_db()
    if job.total:
        doorbell.ring_after_commit(job.pk)
    else:
        finish_if_done(job.pk)
        job.refresh_from_db()
    return job


def _known_queue(queue: str) -> str:
    if queue not in queue_names():
        raise ValueError(f"There is no queue {shown(queue)}. There are: {', '.join(queue_names())}.")
    return queue


def _callbacks(**given: Signature[Any] | None) -> dict[str, Any]:
    return {kind: _callback(kind, signature) for kind, signature in given.items() if signature is not None}


def _callback(kind: str, given: Any) -> dict[str, Any]:
    """A callback as the job keeps it."""
    if not isinstance(given, Signature):
        raise TypeError(f"{kind} takes a signature, such as task.s(), not {shown(given)}.")
    _require_storable(f"The contents of the signature given to {kind}", given)
    task: Any = current_app.tasks.get(str(given.task))
    if task is not None and not given.subtask_type:
        args = given.args if given.immutable else (0, *given.args)
        _check_arguments(f"{kind} calls {given.task} with the job's id first", task, args, given.kwargs)
    return dict(given)


def _check_arguments(what: str, task: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> None:
    try:
        task.__header__(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{what}: {error}.") from error


def _require_storable(what: str, value: Any) -> None:
    """
    Raises:
        NotJson, ArgumentsTooLarge: they cannot be stored in a column of JSON, which on PostgreSQL holds less than text.
    """
    encode_arguments(what, value)
    if _NOT_STORABLE_IN_JSON.search(json.dumps(value, ensure_ascii=False)):
        raise NotJson(f"{what} hold NUL or half of a surrogate pair, which PostgreSQL cannot store. Leave it out.")
