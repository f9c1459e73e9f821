"""What every workload has in common: it becomes tasks, their states are counted, and their results are judged."""

import json
import threading
from abc import ABC, abstractmethod
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, ClassVar

from celery.result import AsyncResult, GroupResult, ResultBase
from django.contrib.auth.models import User
from django.db import connections
from django.db.models import Count, QuerySet
from django_celery_results.models import TaskResult

from handbell import states
from tasks_app.models import Run

MAX_QUERY_IDS = 10_000  # SQLite takes up to 250,000 parameters, PostgreSQL 65,535


@dataclass(frozen=True)
class Progress:
    """How many of a run's tasks stand where. Tasks that no worker has begun have no result yet: they are queued."""

    total: int
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def finished(self) -> int:
        return self.succeeded + self.failed + self.cancelled

    @property
    def queued(self) -> int:
        return self.total - self.finished - self.running

    @property
    def done(self) -> bool:
        return self.finished >= self.total

    @property
    def percent(self) -> int:
        return 100 * self.finished // self.total if self.total else 100


@dataclass(frozen=True)
class Verdict:
    """Whether a finished run did what it should, and what came out, in a sentence."""

    ok: bool
    text: str


class Workload(ABC):
    slug: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    #: What `manage.py demo` starts it with.
    demo: ClassVar[dict[str, Any]]

    def start(self, inputs: dict[str, Any], user: User | None = None) -> Run:
        """Send the tasks and store their ids. Nothing is waited for."""
        task_ids = self.send(inputs)
        return Run.objects.create(workload=self.slug, inputs=inputs, task_ids=task_ids, started_by=user)

    @abstractmethod
    def send(self, inputs: dict[str, Any]) -> list[str]:
        """Send the tasks; their ids."""

    @abstractmethod
    def judge(self, run: Run) -> Verdict:
        """The verdict on a run whose tasks have all finished."""

    def outcome(self, run: Run) -> tuple[Progress, Verdict | None]:
        """How far the run is, and the verdict once it has finished; from then on both are kept with it. What has failed
        may be retried, so then it is judged again if something has changed.
        """
        kept = Progress(**run.outcome["progress"]) if run.outcome else None
        progress = self.progress(run) if kept is None or kept.failed else kept
        if not progress.done:
            return progress, None
        if run.outcome is None or progress != kept:
            run.outcome = {"progress": asdict(progress), "verdict": asdict(self.judge(run))}
            Run.objects.filter(pk=run.pk).update(outcome=run.outcome)  # it may have been deleted meanwhile
        return progress, Verdict(**run.outcome["verdict"])

    def tasks(self, run: Run) -> Iterator[QuerySet[TaskResult]]:
        """The results of the run's tasks so far, a slice at a time, in the order of their ids."""
        for ids in batched(run.task_ids, MAX_QUERY_IDS):
            yield TaskResult.objects.filter(task_id__in=ids)

    def operations(self, run: Run) -> Iterator[QuerySet[Any]]:
        """The operations or launches among the run's tasks, a slice at a time; most workloads have none."""
        return iter(())

    def live(self, run: Run) -> list[tuple[str, str]]:
        """Values that a page shows during the run, each with its label. They are read now, without waiting."""
        return []

    def total(self, run: Run) -> int:
        return len(run.task_ids)

    def progress(self, run: Run) -> Progress:
        tally: Tally[str] = Tally()
        for tasks in self.tasks(run):
            for state, number in tasks.order_by().values_list("status").annotate(Count("pk")):
                tally[states.word(state)] += number
        for operations in self.operations(run):
            for state, number in operations.order_by().values_list("status").annotate(Count("pk")):
                tally[states.FAILED if state in states.WENT_WRONG else state] += number
        counted = {word: tally[word] for word in (states.RUNNING, states.SUCCEEDED, states.FAILED, states.CANCELLED)}
        return Progress(total=self.total(run), **counted)

    def results(self, run: Run) -> list[Any]:
        """The return values of the tasks that succeeded, in the order of the ids."""
        found: dict[str, Any] = {}
        for tasks in self.tasks(run):
            rows = tasks.filter(status="SUCCESS").order_by().values_list("task_id", "result")
            found.update((task_id, json.loads(result)) for task_id, result in rows)
        for operations in self.operations(run):
            done = operations.filter(status=states.SUCCEEDED).order_by().values_list("task_id", "result")
            found.update((task_id, json.loads(result or "null")) for task_id, result in done)
        return [found[task_id] for task_id in run.task_ids if task_id in found]

    def first_failure(self, run: Run) -> str | None:
        """The error of one task that failed, or None if none did."""
        for tasks in self.tasks(run):
            failed = tasks.filter(status="FAILURE").order_by("date_done").first()
            if failed is not None:
                error = json.loads(failed.result)
                return f"{failed.task_name}: {error['exc_type']}: {' '.join(map(str, error['exc_message']))}"
        for operations in self.operations(run):
            refused = operations.filter(status__in=states.WENT_WRONG).order_by("id").first()
            if refused is not None:
                error = json.loads(refused.result or "{}")
                return f"{refused.task}: {error['exc_type']}: {' '.join(map(str, error['exc_message']))}"
        return None

    def failed(self, run: Run) -> Verdict | None:
        """A verdict if any task failed or was cancelled, for workloads in which none should be."""
        if error := self.first_failure(run):
            return Verdict(False, error)
        progress = self.progress(run)
        if progress.cancelled:
            return Verdict(False, f"{progress.cancelled:,} of {progress.total:,} cancelled")
        return None


def batched(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of `size`; the last may be shorter."""
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part


def in_words(numbers: Mapping[str, int]) -> str:
    """`{"chunks": 5, "items": 1}` as "5 chunks, 1 item"."""
    return ", ".join(
        f"{number:,} {kind.removesuffix('s') if number == 1 else kind}" for kind, number in numbers.items()
    )


def in_threads(number: int, send: Callable[[int], list[str]]) -> list[str]:
    """Call `send(0)` … `send(number - 1)` each in a thread of its own; all the ids they return, in order.

    Raises:
        Exception: whatever the first failing thread raised.
    """
    ids: list[list[str]] = [[] for _ in range(number)]
    errors: list[Exception] = []

    def produce(index: int) -> None:
        try:
            ids[index] = send(index)
        except Exception as error:  # noqa: BLE001  (raised again below, in the caller's thread)
            errors.append(error)
        finally:
            connections.close_all()  # this thread's own

    threads = [threading.Thread(target=produce, args=(index,), name=f"producer-{index}") for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [task_id for part in ids for task_id in part]


def ids_of(result: ResultBase) -> list[str]:
    """The ids of every task behind a result: a group's members, a chain's earlier links, a chord's header."""
    parents = ids_of(result.parent) if result.parent is not None else []
    if isinstance(result, GroupResult):
        return parents + [task_id for member in result.results or () for task_id in ids_of(member)]
    assert isinstance(result, AsyncResult)
    return [*parents, str(result.id)]
