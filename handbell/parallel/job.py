"""`Job`: what a caller does with a job. Read its results, wait for it, pause or cancel it, extend its source."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Self

from celery import current_app
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from handbell import states
from handbell.arguments import require_integer, require_iterable, require_number
from handbell.common.polling import poll
from handbell.errors import ItemFailed, JobRefused
from handbell.models import JobRow
from handbell.models.owner import is_taken
from handbell.parallel import doorbell
from handbell.parallel.feed import feed_job
from handbell.parallel.progress import progress_bar

MAX_JOB_POLL_SECONDS = 0.2
MAX_INDEX = 2**62
MAX_WAIT_SECONDS = 10**9


class Job(JobRow):
    """Tasks applied to all items of a source. `over(source).map(task).start()` returns one, `Job.objects` has them all.

    `status`, `total`, `done`, `succeeded`, `failed`, `percent`, `rate` and `time_left` say how far it is.
    """

    class Meta:
        proxy = True

    # --- Reading ----------------------------------------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """What `reduce` made of the results, once the job has finished; otherwise None."""
        return None if self.value_json is None else json.loads(self.value_json)

    def result(self, index: int) -> Any:
        """The result of item `index`.

        Raises:
            IndexError: the item has no result yet, or there is no such item.
            ItemFailed: the item has failed.
            JobRefused: the job does not keep its results.
        """
        self._require_results()
        require_integer("index", index, -MAX_INDEX, MAX_INDEX)
        chunk = self.chunks.filter(first__lte=index, results__isnull=False).order_by("-first").first()
        if chunk is None or index < 0 or index >= chunk.first + chunk.count:
            raise IndexError(f"Item {index} of job {self.pk} has no result yet, or there is no such item.")
        if index - chunk.first in chunk.failed_offsets:
            failure = self.failure_rows.filter(index=index).first()
            raise ItemFailed(f"Item {index} of job {self.pk} has failed{f': {failure.error}' if failure else '.'}")
        return json.loads(chunk.results or "null")[index - chunk.first]

    def results(self, *, failed: Any = None) -> Iterator[Any]:
        """The results so far, in the order of the items and in constant memory. An item that failed gives `failed`.

        Raises:
            JobRefused: the job does not keep its results.
        """
        self._require_results()
        chunks = self.chunks.filter(results__isnull=False).order_by("first")
        for results, failed_offsets in chunks.values_list("results", "failed_offsets").iterator(chunk_size=1):
            values = json.loads(results or "[]")
            for offset in failed_offsets:
                values[offset] = failed
            yield from values

    def failures(self) -> Iterator[dict[str, Any]]:
        """Index, item (as JSON), error and traceback of the first thousand failed items. `failed` counts them all."""
        return (failure.as_dict() for failure in self.failure_rows.iterator())

    def _require_results(self) -> None:
        if not self.keep_results:
            raise JobRefused(f"Job {self.pk} was started with keep_results=False, so it has no results to read.")

    @property
    def problem(self) -> str:
        """Why it does not go on, if that is known: no worker takes its queue, or its source was interrupted."""
        if self.finished or self.paused:
            return ""
        if self.source_state == self.INTERRUPTED and self.done >= self.total:
            return f"Its source was interrupted after {self.total:,} items. Go on with job.extend(items), or cancel it."
        if not is_taken(self.queue):
            return f"No worker takes the queue {self.queue}. `manage.py celery worker -Q {self.queue}` is one."
        return ""

    # --- Waiting ----------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> Self:
        """Return the job once it has finished; with `progress`, draw a bar in the terminal meanwhile.

        Raises:
            JobRefused: called in a worker, where the job may be waiting for this very process.
            TimeoutError: it has not finished within `timeout` seconds.
        """
        if timeout is not None:
            require_number("timeout", timeout, 0, MAX_WAIT_SECONDS)
        if current_app.current_worker_task is not None:
            raise JobRefused(
                "A task must not wait for a job: the job may be waiting for this very process. "
                "Start the job with on_complete=task.s(), and go on there."
            )
        with progress_bar(self.name, shown=progress) as show:

            def has_finished() -> bool:
                self.refresh_from_db()
                show(self)
                return self.finished

            if not poll(has_finished, timeout, MAX_JOB_POLL_SECONDS):
                raise TimeoutError(f"Job {self.pk} has not finished within {timeout} s: {self.done:,} done.")
        return self

    # --- Steering ---------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Let no further chunk begin.

        Raises:
            JobRefused: the job is paused already, or has finished.
        """
        self._change_unfinished("paused", {"paused": True}, paused=False)

    def resume(self) -> None:
        """Go on after a pause.

        Raises:
            JobRefused: the job is not paused, or has finished.
        """
        self._change_unfinished("resumed", {"paused": False}, paused=True)
        doorbell.ring_after_commit(self.pk)

    def cancel(self) -> None:
        """Stop for good: a second later, no further item begins. Results so far are kept.

        Raises:
            JobRefused: the job has finished.
        """
        change = {"status": states.CANCELLED, "finished_at": timezone.now(), "error": "cancelled"}
        self._change_unfinished("cancelled", change)

    def _change_unfinished(self, done: str, change: dict[str, Any], **condition: Any) -> None:
        unfinished = self._row.filter(status__in=[states.QUEUED, states.RUNNING], **condition)
        if not unfinished.update(**change):
            self.refresh_from_db()
            raise JobRefused(f"Job {self.pk} is {self.state}, so it cannot be {done}.")
        self.refresh_from_db()

    @property
    def _row(self) -> QuerySet[JobRow]:
        return JobRow.objects.filter(pk=self.pk)

    def retry_failed(self) -> None:
        """Run the failed items again, and only those.

        Raises:
            JobRefused: the job has not finished, or nothing has failed.
        """
        with transaction.atomic():
            job = self._row.select_for_update().get()
            if job.status != states.FAILED or not job.failed:
                failed = f"{job.status}, with {job.failed:,} failed items"
                raise JobRefused(f"Job {self.pk} is {failed}, so there is nothing to retry.")
            ended = job.chunks.filter(status=states.SUCCEEDED)  # one that still runs comes to its own end
            for chunk in ended.exclude(failed_offsets=[]).only("id", "failed_offsets").iterator(chunk_size=500):
                ended.filter(pk=chunk.pk).update(
                    status=states.QUEUED, retry_offsets=chunk.failed_offsets, crash_count=0
                )
                job.failed -= len(chunk.failed_offsets)
            job.failure_rows.all().delete()
            job.status, job.error, job.finished_at = states.RUNNING, "", None
            job.save(update_fields=["failed", "status", "error", "finished_at"])
        self.refresh_from_db()
        doorbell.ring_after_commit(self.pk)

    # --- The source -------------------------------------------------------------------------------------------------

    def extend(self, items: Iterable[Any]) -> None:
        """Go on with a source that was interrupted: append `items`, after which it is complete.

        Raises:
            JobRefused: the source is complete.
            NotJson, ArgumentsTooLarge: an item cannot be stored; those before it have arrived.
        """
        if self.source_state == self.COMPLETE or self.finished:
            raise JobRefused(f"The source of job {self.pk} is complete, or the job has finished. Start another job.")
        feed_job(self.pk, require_iterable("extend()", items))
        self.refresh_from_db()
