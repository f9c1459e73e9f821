"""What a caller does with a job: read its results, wait for it, steer it, and feed it."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, cast

from celery._state import get_current_worker_task
from django.db import connection, models, transaction
from django.db.models import F
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tasks_app import bell, states
from tasks_app.errors import ItemFailed, JobRefused, NotJson
from tasks_app.heartbeat import beating

if TYPE_CHECKING:
    from tasks_app.models.job import Job

WORK = "tasks_app.parallel.work"
# A block is written when it has so many items, or is so old; of large items it has fewer.
BLOCK_ITEMS, BLOCK_SECONDS, BLOCK_CHARACTERS = 10_000, 0.5, 1_000_000
HEARTBEAT_SECONDS = 1.0
encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class JobHandle(models.Model):
    """The methods of `Job`."""

    class Meta:
        abstract = True

    # --- Reading ----------------------------------------------------------------------------------------------------

    @property
    def _job(self) -> "Job":
        return cast("Job", self)

    @property
    def _rows(self) -> "models.QuerySet[Job]":
        return cast("models.QuerySet[Job]", type(self)._base_manager.filter(pk=self.pk))

    @property
    def value(self) -> Any:
        """What `reduce` made of the results, once the job has finished; otherwise None."""
        return None if self._job.value_json is None else json.loads(self._job.value_json)

    def result(self, index: int) -> Any:
        """The result of item `index`.

        Raises:
            IndexError: there is no result of this item (yet).
            ItemFailed: the item has failed.
            JobRefused: the job does not keep its results.
        """
        self._require_results()
        chunk = self._job.chunks.filter(first__lte=index, results__isnull=False).order_by("-first").first()
        if chunk is None or index < 0 or index >= chunk.first + chunk.count:
            raise IndexError(f"Item {index} of job {self.pk} has no result yet, or there is no such item.")
        if index - chunk.first in chunk.wrong:
            failure = self._job.failure_rows.filter(index=index).first()
            raise ItemFailed(f"Item {index} of job {self.pk} has failed{f': {failure.error}' if failure else '.'}")
        return json.loads(chunk.results or "null")[index - chunk.first]

    def results(self, *, failed: Any = None) -> Iterator[Any]:
        """The results there are, in the order of the items and in constant memory; `failed` stands for an item that
        failed.

        Raises:
            JobRefused: the job does not keep its results.
        """
        self._require_results()
        chunks = self._job.chunks.filter(results__isnull=False).order_by("first")
        for results, wrong in chunks.values_list("results", "wrong").iterator(chunk_size=1):
            values = json.loads(results or "[]")
            for offset in wrong:
                values[offset] = failed
            yield from values

    def failures(self) -> Iterator[dict[str, Any]]:
        """Index, item (as JSON), error and traceback of the failed items, as far as they are kept. `failed` is how
        many there are.
        """
        return (failure.as_dict() for failure in self._job.failure_rows.iterator())

    def _require_results(self) -> None:
        if not self._job.keep_results:
            raise JobRefused(f"Job {self.pk} was started with keep_results=False, so it has no results to read.")

    # --- Waiting ----------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> Self:
        """Return the job once it has finished; with `progress`, draw a bar in the terminal meanwhile.

        Raises:
            JobRefused: called inside a worker, where the wait could be for itself.
            TimeoutError: it has not finished within `timeout` seconds.
        """
        if get_current_worker_task() is not None:
            raise JobRefused(
                "A task must not wait for a job: the job may be waiting for this very process. "
                "Start the job with on_complete=task.s(), and go on there."
            )
        deadline = None if timeout is None else time.monotonic() + timeout
        with _bar(self._job.name, shown=progress) as show:
            pause = 0.005
            while True:
                self.refresh_from_db()
                show(self._job)
                if self._job.finished:
                    return self
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError(f"Job {self.pk} has not finished within {timeout} s: {self._job.done:,} done.")
                time.sleep(pause)
                pause = min(pause * 1.5, 0.2)

    # --- Steering ---------------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Send the job's doorbell after the commit, unless one is on its way."""
        with transaction.atomic():
            changed = self._rows.filter(idle=True).update(idle=False, rung_at=timezone.now(), rings=0)
            if changed:
                self.refresh_from_db(fields=["bell"])
                job, number = self._job, self._job.bell
                transaction.on_commit(lambda: send(job, number), robust=True)

    def pause(self) -> None:
        """Let no further chunk begin."""
        self._steer({"paused": True}, paused=False)

    def resume(self) -> None:
        """Go on after a pause."""
        self._steer({"paused": False}, paused=True)
        self.ring()

    def cancel(self) -> None:
        """Stop for good: no item begins from a second later on. Results so far are kept."""
        now = timezone.now()
        self._steer({"status": states.CANCELLED, "finished_at": now, "error": "cancelled"})

    def _steer(self, change: dict[str, Any], **given: Any) -> None:
        active = self._rows.filter(status__in=[states.QUEUED, states.RUNNING], **given)
        if not active.update(**change):
            self.refresh_from_db()
            how = "paused" if self._job.paused else self._job.status
            raise JobRefused(f"Job {self.pk} is {how}: that does not go now.")
        self.refresh_from_db()

    def retry_failed(self) -> None:
        """Run the failed items again, and only those.

        Raises:
            JobRefused: the job has not finished, or nothing has failed.
        """
        with transaction.atomic():
            job = self._rows.select_for_update().get()
            if job.status != states.FAILED or not job.failed:
                raise JobRefused(f"Job {self.pk} is {job.status}, with {job.failed} failed items: nothing to retry.")
            again = 0
            for chunk in job.chunks.exclude(wrong=[]).only("id", "wrong").iterator(chunk_size=500):
                again += len(chunk.wrong)
                job.chunks.filter(pk=chunk.pk).update(
                    status=states.QUEUED, only=chunk.wrong, attempts=F("attempts") + 1, deaths=0
                )
            job.failure_rows.all().delete()
            job.failed, job.status, job.error, job.finished_at = job.failed - again, states.RUNNING, "", None
            job.save(update_fields=["failed", "status", "error", "finished_at"])
        self.refresh_from_db()
        self.ring()

    # --- Feeding ----------------------------------------------------------------------------------------------------

    def extend(self, items: Iterable[Any]) -> None:
        """Go on with a source that was interrupted: append `items`, after which it is complete.

        Raises:
            JobRefused: the source is complete.
            NotJson: an item is not JSON; those before it have arrived.
        """
        if self._job.source_state == self._job.COMPLETE or self._job.finished:
            raise JobRefused(f"The source of job {self.pk} is complete, or the job has finished: start another one.")
        self.feed(items)

    def feed(self, items: Iterable[Any]) -> None:
        """Write items as blocks while they arrive; workers may be at them already."""
        with self._kept_alive(), _writing() as write:
            try:
                for text, count in _blocks(items):
                    write(self._append, text, count)
            except BaseException:
                if not connection.needs_rollback:
                    write(self._source, self._job.INTERRUPTED)
                raise
            write(self._source, self._job.COMPLETE)

    def _append(self, text: str, count: int) -> None:
        with transaction.atomic():
            job = self._rows.select_for_update().get()
            if job.finished:
                raise JobRefused(f"Job {self.pk} was {job.status} while its items were still arriving.")
            job.blocks.create(first=job.total, count=count, items=text)
            job.total += count
            job.source_state, job.source_seen_at = job.ARRIVING, timezone.now()
            job.save(update_fields=["total", "source_state", "source_seen_at"])
        self.ring()

    def _source(self, state: str) -> None:
        """The end of the source. Whether all is done is for the next doorbell to see."""
        self._rows.update(source_state=state, source_seen_at=timezone.now())
        self.refresh_from_db()
        if self._job.total:
            self.ring()

    def _kept_alive(self) -> AbstractContextManager[None]:
        """Say now and then that the source is there, however slowly it gives; in a transaction nobody would see it."""
        if connection.in_atomic_block:
            return nullcontext()
        return beating(HEARTBEAT_SECONDS, lambda: self._rows.update(source_seen_at=timezone.now()))


def send(job: "Job", number: int) -> None:
    bell.send(WORK, (job.pk, number), job.queue, f"The doorbell of job {job.pk}", job.priority)


@contextmanager
def _writing() -> Iterator[Callable[..., None]]:
    """What calls a function that writes, while a source is being read.

    The source may read from this very database, a queryset above all, and whoever is in the middle of reading from
    SQLite may not write once somebody else has. So there another connection writes, that of another thread.
    """
    apart = connection.vendor == "sqlite" and not connection.in_atomic_block
    if not apart or connection.is_in_memory_db():  # type: ignore[attr-defined]
        yield lambda function, *args: function(*args)
        return
    with ThreadPoolExecutor(1, "source") as thread:
        try:
            yield lambda function, *args: thread.submit(function, *args).result()
        finally:
            thread.submit(lambda: connection.close()).result()


def _blocks(items: Iterable[Any]) -> Iterator[tuple[str, int]]:
    """JSON arrays, each with its length."""
    remaining, most = iter(items), 100
    while True:
        block, end = [], time.monotonic() + BLOCK_SECONDS
        for item in islice(remaining, most):
            block.append(item)
            if time.monotonic() > end:
                break
        if not block:
            return
        right = len(block)
        try:
            text = encode(block)
        except (TypeError, ValueError):
            right = next(number for number, item in enumerate(block) if not _is_json(item))
            text = encode(block[:right])
        if right:
            yield text, right
            most = max(1, min(BLOCK_ITEMS, most * 8, BLOCK_CHARACTERS * right // len(text)))
        if right < len(block):
            raise NotJson(
                f"Items must be JSON, and {block[right]!r:.80} is a {type(block[right]).__name__}. "
                "Pass keys, numbers, texts, lists and dicts."
            )


def _is_json(item: Any) -> bool:
    try:
        encode(item)
    except (TypeError, ValueError):
        return False
    return True


@contextmanager
def _bar(name: str, *, shown: bool) -> Iterator[Any]:
    if not shown:
        yield lambda job: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, rate="", failed="")

        def show(job: "Job") -> None:
            known = job.source_state == job.COMPLETE
            speed = bar.tasks[0].speed
            bar.update(
                task,
                completed=job.done,
                total=job.total if known else None,
                rate=f"{speed:,.0f}/s" if speed else "",
                failed=f"[red]{job.failed:,} failed[/]" if job.failed else "",
            )

        yield show
