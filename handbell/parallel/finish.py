"""The end of a job, in the transaction that completes its last chunk: its value, its state and its callbacks."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from celery import current_app
from django.db import transaction
from django.utils import timezone

from handbell import states
from handbell.common.codec import encode
from handbell.common.outages import is_outage
from handbell.errors import ItemFailed, UnknownTask
from handbell.models import JobRow
from handbell.parallel.executor import StopCondition, failed_item
from handbell.parallel.import_paths import load_function
from handbell.parallel.subprocess_executor import SubprocessExecutor

MAX_FOLDED_VALUES = 1_000  # chunks whose values are passed to one call of the reducer
logger = logging.getLogger(__name__)


def finish_if_done(job_id: int) -> None:
    """End the job if its source is complete and all items are done. It may have ended before, or be deleted."""
    with transaction.atomic():
        job = JobRow.objects.select_for_update().filter(pk=job_id).first()
        if job is not None and finish_locked_job(job, in_subprocess=True):
            job.save()


def finish_locked_job(job: JobRow, *, in_subprocess: bool) -> bool:
    """End the job if all is done, and start its callbacks; whether it has ended. The caller saves the job.

    It is called in the transaction that holds the lock of the job's row, so a job ends once, whoever completes the last
    chunk. `in_subprocess` says where the reducer runs.
    """
    if job.status not in {states.QUEUED, states.RUNNING}:
        return False
    if job.max_failures is not None and job.failed > job.max_failures:
        job.error = f"stopped: {job.failed:,} items failed, and max_failures is {job.max_failures:,}"
    elif job.source_state != JobRow.COMPLETE or job.done < job.total:
        return False
    elif job.reducer:
        _reduce_chunks(job, in_subprocess=in_subprocess)
    job.status = states.FAILED if job.failed or job.error else states.SUCCEEDED
    job.finished_at = timezone.now()
    job.started_at = job.started_at or job.finished_at
    job.runs += 1
    _start_callbacks(job)
    return True


def load_reducer(job: JobRow, *, in_subprocess: bool) -> Callable[[list[Any]], Any]:
    """The function given to `reduce`; if it may kill the process that it runs in, one that calls it in a subprocess.

    Raises:
        UnknownTask: this deployment does not have it.
    """
    reduce = load_function(job.reducer)
    if not in_subprocess:
        return reduce

    def reduce_in_subprocess(values: list[Any]) -> Any:
        outcome = SubprocessExecutor(reduce, [values], StopCondition(), 1, None).run()
        if outcome.failed:
            raise ItemFailed(outcome.failed[0].error)
        return outcome.results[0]

    return reduce_in_subprocess


def _reduce_chunks(job: JobRow, *, in_subprocess: bool) -> None:
    """Fold the values of all chunks into the job's value. If that raises an error, the job says so, and fails."""
    partials = job.chunks.filter(partial__isnull=False).order_by("first").values_list("partial", flat=True)
    values = (json.loads(text or "null") for text in partials.iterator(chunk_size=100))
    try:
        with transaction.atomic():
            job.value_json = _fold(load_reducer(job, in_subprocess=in_subprocess), values)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it is the user's function)
        job.error = f"reduce: {failed_item(0, error).error}"


def _fold(reduce: Callable[[list[Any]], Any], values: Iterable[Any]) -> str | None:
    """The values in their order, folded some at a time, as JSON; None if there are none."""
    remaining: Iterator[Any] = iter(values)
    part = list(islice(remaining, MAX_FOLDED_VALUES))
    if not part:
        return None
    value = part[0] if len(part) == 1 else reduce(part)
    while part := list(islice(remaining, MAX_FOLDED_VALUES)):
        value = reduce([value, *part])
    return encode(value)


def _start_callbacks(job: JobRow) -> None:
    """Start the callbacks. If one cannot be started the job says so, and keeps what it has done."""
    for kind in ("on_failure" if job.status == states.FAILED else "on_success", "on_complete"):
        if kind in job.callbacks:
            try:
                with transaction.atomic():
                    _start_callback(job, kind)
            except Exception as error:
                if is_outage(error):
                    raise
                logger.exception("Job %s: its %s was not started.", job.pk, kind)
                job.error = job.error or f"{kind}: {failed_item(0, error).error}"


def _start_callback(job: JobRow, kind: str) -> None:
    """Enqueue a callback in this transaction, under an id that follows from the job: so it is called exactly once."""
    signature, task_id = current_app.signature(job.callbacks[kind]), f"job-{job.pk}-{job.runs}-{kind}"
    if str(signature.task) not in current_app.tasks:
        raise UnknownTask(f"This deployment has no task called {signature.task}.")
    signature.apply_async((job.pk,), task_id=task_id)
