"""How to declare a job, and what starting it does."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Self

from celery import Task, current_app
from celery.canvas import Signature
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from tasks_app import states
from tasks_app.errors import NotJson
from tasks_app.models import Job
from tasks_app.models.job_handle import encode
from tasks_app.parallel.finish import finish_if_done
from tasks_app.parallel.references import refer
from tasks_app.parallel.run import current_job_id
from tasks_app.queues import DEFAULT, DEFAULT_PRIORITY, HIGHEST_PRIORITY, QUEUES

CALLBACKS = ("on_success", "on_failure", "on_complete")


def over(source: Iterable[Any]) -> "Pipeline":
    """A pipeline over the items of `source`: a `range`, a queryset (its primary keys), or any iterable of what JSON
    can hold. It may be larger than memory.

    Raises:
        TypeError: the source is something else.
    """
    if isinstance(source, str | bytes | dict) or not isinstance(source, Iterable):
        raise TypeError(f"over() takes a range, a queryset or an iterable of items, not a {type(source).__name__}.")
    return Pipeline(source)


@dataclass(frozen=True)
class Pipeline:
    """What is to be done with each item. Each method returns a new pipeline; nothing happens before `start`."""

    source: Iterable[Any]
    stages: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = ()
    default_queue: str = DEFAULT.name
    reducer: str = ""
    saver: str = ""
    _first: str = field(default="", repr=False)

    def map(self, task: Any, *args: Any, **kwargs: Any) -> Self:
        """Call `task(item, *args, **kwargs)` in the worker's own process; a second `map` takes the first one's result.

        Raises:
            TypeError: it is no task that can be called like that, or the arguments are not JSON.
        """
        if not isinstance(task, Task) and not hasattr(task, "apply_async"):
            raise TypeError(f"map() takes a task, not {task!r}. Put @shared_task above it.")
        if not getattr(task, "called_in_process", True):
            raise TypeError(f"map() cannot call {task.name}: its calls go through a ledger of their own. Enqueue it.")
        _require_json(f"The arguments of {task.name}", (args, kwargs))
        queue = self.default_queue if self.stages else (getattr(task, "queue", None) or DEFAULT.name)
        return replace(self, stages=(*self.stages, (task.name, args, kwargs)), default_queue=queue)

    def reduce(self, function: Any) -> Self:
        """Fold the results into one: `function(list of results)` must give something that can stand in such a list.

        It is called with the results of each chunk, in order, and again with what came of them. So it must be
        associative: f([a, b, c]) == f([f([a, b]), c]).

        Raises:
            TypeError: it is neither a task nor a function at the top of a module.
        """
        return replace(self, reducer=refer(function, "reduce()"))

    def save(self, function: Any) -> Self:
        """Call `function(list of results)` for each chunk in the very transaction that completes it, so exactly once.

        Raises:
            TypeError: it is neither a task nor a function at the top of a module.
        """
        return replace(self, saver=refer(function, "save()"))

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

        `chunk_seconds` is how long a chunk should take (otherwise PARALLEL_CHUNK_MS), `chunk_size` fixes its number of
        items; `threads` run the items of a chunk side by side; an item that takes longer than `item_timeout` seconds
        fails; more than `max_failures` stop the job. The callbacks are signatures, called with the job's id first.

        Raises:
            TypeError, ValueError: an option is wrong; the message says which.
            NotJson: an item is not JSON. The job is left with the items before it.
        """
        if not self.stages:
            raise TypeError("A job without a task does nothing: add .map(task).")
        _check("chunk_size", chunk_size, 1, 1_000_000)
        _check("chunk_seconds", chunk_seconds, 0.001, 3600)
        _check("threads", threads, 1, 1000)
        _check("item_timeout", item_timeout, 0.001, 86_400)
        _check("max_failures", max_failures, 0, 10**9)
        _check("priority", priority, 0, HIGHEST_PRIORITY)
        callbacks = {
            kind: _callback(kind, given)
            for kind, given in zip(CALLBACKS, (on_success, on_failure, on_complete), strict=True)
            if given is not None
        }
        items = self.source if isinstance(self.source, range) else None
        job = Job.objects.create(
            name=(name or self.stages[0][0].rpartition(".")[2])[:200],
            queue=_known(queue or self.default_queue),
            priority=priority,
            parent_id=current_job_id(),
            stages=[list(stage) for stage in self.stages],
            reducer=self.reducer,
            saver=self.saver,
            callbacks=callbacks,
            source={"range": [items.start, items.stop, items.step]} if items is not None else {},
            source_state=Job.COMPLETE if items is not None else Job.ARRIVING,
            source_seen_at=timezone.now(),
            total=len(items) if items is not None else 0,
            chunk_size=chunk_size,
            chunk_seconds=chunk_seconds or settings.PARALLEL_CHUNK_MS / 1000,
            threads=threads,
            item_timeout=item_timeout,
            max_failures=max_failures,
            keep_results=keep_results,
            status=states.QUEUED,
            enqueued_at=timezone.now(),
        )
        if items is None:
            source = self.source
            job.feed(source.values_list("pk", flat=True).iterator() if isinstance(source, QuerySet) else source)
        if job.total:
            job.ring()
        else:
            finish_if_done(job.pk)
            job.refresh_from_db()
        return job


def _known(queue: str) -> str:
    if queue not in {known.name for known in QUEUES}:
        raise ValueError(f"There is no queue {queue!r}. There are: {', '.join(known.name for known in QUEUES)}.")
    return queue


def _check(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{name} is a number, not {value!r}.")
    if value is not None and not least <= value <= most:
        raise ValueError(f"{name} goes from {least:,} to {most:,}, so it cannot be {value!r}.")


def _callback(kind: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Signature):
        raise TypeError(f"{kind} takes a signature, such as task.s(), not {given!r}.")
    _require_json(f"What {kind} is given", given)
    task: Any = current_app.tasks.get(str(given.task))
    if task is not None and not given.subtask_type:
        try:
            task.__header__(*(() if given.immutable else (0,)), *given.args, **given.kwargs)
        except TypeError as error:
            raise TypeError(f"{kind} calls {given.task} with the job's id first: {error}.") from error
    return dict(given)


def _require_json(what: str, value: Any) -> None:
    try:
        encode(value)
    except (TypeError, ValueError) as error:
        raise NotJson(f"{what} must be JSON: {error}.") from error
