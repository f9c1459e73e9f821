"""The end of a job: its value, its state and its callbacks."""

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

from celery import current_app
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from handbell import states
from handbell.common.claims import claim_owner, new_claim_token
from handbell.common.codec import encode
from handbell.common.db_retry import write_or_exit
from handbell.common.outages import is_outage
from handbell.common.time_limits import is_told_to_stop
from handbell.errors import ItemFailed, UnknownTask
from handbell.models import JobRow
from handbell.parallel.executor import StopCondition, failed_item
from handbell.parallel.import_paths import load_function
from handbell.parallel.recover import UNCLAIMED
from handbell.parallel.subprocess_executor import SubprocessExecutor

MAX_FOLDED_VALUES = 1_000  # that are passed to one call of the reducer
MAX_FOLDED_CHARACTERS = 16_000_000  # of their JSON, about: they are in memory at once
PARTIALS_READ_AT_ONCE = 10
#: What ends a job, apart from its value.
END_FIELDS = ("status", "error", "started_at", "finished_at", "runs")
logger = logging.getLogger(__name__)


def end_if_nothing_to_reduce(job: JobRow) -> bool:
    """End a job whose row the caller has locked, and will save, if it has to stop, or if all is done and nothing is to
    be reduced; whether it has ended. So it ends once, whoever completes the last chunk.
    """
    if not _is_due(job):
        return False
    if job.reducer and not job.error and job.succeeded:
        return False
    _end(job)
    return True


def finish_if_done(job_id: int, *, in_subprocess: bool = True) -> None:
    """End the job if its source is complete and all items are done. It may have ended before, or be deleted.

    The values of the chunks are folded outside of any transaction, by one process at a time, which claims the end of
    the job for that. `in_subprocess` says where the reducer runs.
    """
    token = new_claim_token()
    try:
        job = _claim_end(job_id, token)
        if job is not None:
            _reduce_chunks(job, in_subprocess=in_subprocess)
            write_or_exit(lambda: _write_end(job, token), f"The end of job {job_id}")
    except BaseException:
        write_or_exit(lambda: _claimed_end(job_id, token).update(**UNCLAIMED), f"That job {job_id} has not ended")
        raise


def _claim_end(job_id: int, token: int) -> JobRow | None:
    """The job, if its values are to be folded by this process; a job that needs no folding is ended at once."""
    with transaction.atomic():
        job = JobRow.objects.select_for_update().filter(pk=job_id, claimed_by="").first()
        if job is None or not _is_due(job):
            return None
        if end_if_nothing_to_reduce(job):
            job.save(update_fields=END_FIELDS)
            return None
        job.claimed_by, job.claim_token = claim_owner(), token
        job.save(update_fields=["claimed_by", "claim_token"])
        return job


def _claimed_end(job_id: int, token: int) -> QuerySet[JobRow]:
    return JobRow.objects.filter(pk=job_id, claim_token=token)


def _write_end(reduced: JobRow, token: int) -> None:
    with transaction.atomic():
        job = _claimed_end(reduced.pk, token).select_for_update().first()
        if job is None:
            return  # it was given to another process
        if _is_due(job):
            job.value_json, job.error = reduced.value_json, job.error or reduced.error
            _end(job)
        job.claimed_by, job.claim_token = "", None
        job.save(update_fields=[*END_FIELDS, "value_json", "claimed_by", "claim_token"])


def _is_due(job: JobRow) -> bool:
    """Whether the job has to end now. One that has to stop before all is done says so from here on."""
    if job.status not in {states.QUEUED, states.RUNNING}:
        return False
    if job.max_failures is not None and job.failed > job.max_failures:
        job.error = f"stopped: {job.failed:,} items failed, and max_failures is {job.max_failures:,}"
        return True
    return job.source_state == JobRow.COMPLETE and job.done >= job.total


def _end(job: JobRow) -> None:
    """Change the job's row, in memory, to that of one that has ended, and start its callbacks."""
    job.status = states.FAILED if job.failed or job.error else states.SUCCEEDED
    job.finished_at = timezone.now()
    job.started_at = job.started_at or job.finished_at
    job.runs += 1
    _start_callbacks(job)


def load_reducer(job: JobRow, *, in_subprocess: bool) -> Callable[[list[Any]], Any]:
    """The function given to `reduce`; if it may kill the process that it runs in, one that calls it in a subprocess.

    Raises:
        UnknownTask: this deployment does not have it.
    """
    reduce = load_function(job.reducer)
    if not in_subprocess:
        return reduce

    def reduce_in_subprocess(values: list[Any]) -> Any:
        outcome = SubprocessExecutor([[job.reducer, [], {}]], [values], StopCondition()).run()
        if outcome.failed:
            raise ItemFailed(outcome.failed[0].error)
        return outcome.results[0]

    return reduce_in_subprocess


def _reduce_chunks(job: JobRow, *, in_subprocess: bool) -> None:
    """Fold the values of all chunks into the job's value. If that raises an error, the job says so, and fails.

    Raises:
        django.db.Error: the database was away.
    """
    partials = job.chunks.filter(partials__isnull=False).order_by("first").values_list("partials", flat=True)
    try:
        job.value_json = _fold(
            load_reducer(job, in_subprocess=in_subprocess), partials.iterator(chunk_size=PARTIALS_READ_AT_ONCE)
        )
    except (Exception, SystemExit) as error:
        if is_outage(error) or is_told_to_stop(error):
            raise
        job.error = f"reduce: {failed_item(0, error).error}"  # it is the user's function


def _fold(reduce: Callable[[list[Any]], Any], texts: Iterable[str | None]) -> str | None:
    """The values in their order, folded some at a time, as JSON; None if there are none."""
    values: list[Any] = []
    characters = 0
    for text in texts:
        values += json.loads(text or "[]")
        characters += len(text or "")
        if len(values) >= MAX_FOLDED_VALUES or (characters >= MAX_FOLDED_CHARACTERS and len(values) > 1):
            values = [reduce(values)]
            characters = len(encode(values))
    if not values:
        return None
    return encode(values[0] if len(values) == 1 else reduce(values))


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
