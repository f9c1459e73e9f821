"""Deleting finished work, in transactions short enough that nobody waits long."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django_celery_results.models import GroupResult, TaskResult

from handbell import states
from handbell.arguments import require_moment
from handbell.models import Block, Chunk, ItemFailure, JobRow, Launch, Operation
from handbell.models.task_result import ENDED

MAX_TRANSACTION_ROWS = 1000


def delete_finished(before: datetime) -> dict[str, int]:
    """Delete all work that finished before that moment, with its results; how many pieces of each kind there were.

    Call it from a periodic task of your own: nothing else deletes finished work.

    Raises:
        TypeError: `before` is no `datetime`.
    """
    before = require_moment("before", before)
    return {
        "task results": delete_in_batches(TaskResult.objects.filter(ENDED, date_done__lt=before)),
        "group results": delete_in_batches(GroupResult.objects.filter(date_done__lt=before)),
        "jobs": delete_jobs(JobRow.objects.filter(finished_at__lt=before)),
        "operations": delete_in_batches(Operation.objects.filter(finished_at__lt=before)),
        "launches": delete_in_batches(Launch.objects.filter(finished_at__lt=before)),
    }


def delete_in_batches(rows: QuerySet[Any]) -> int:
    """Delete `rows`, a thousand per transaction, and return how many there were."""
    deleted = 0
    while keys := list(rows.order_by("pk").values_list("pk", flat=True)[:MAX_TRANSACTION_ROWS]):
        rows.model._default_manager.filter(pk__in=keys).delete()
        deleted += len(keys)  # what `delete` returns counts the chunks of a job, too
    return deleted


def delete_jobs(jobs: QuerySet[Any]) -> int:
    """Delete those of these jobs that have finished, with their items and results; how many there were."""
    finished, deleted = jobs.filter(status__in=states.FINISHED), 0
    for pk in list(finished.values_list("pk", flat=True)):
        job = JobRow.objects.filter(pk=pk, status__in=states.FINISHED)
        if not job.update(status=states.CANCELLED, error="deleted"):  # from here on nobody can retry it
            continue
        for model in (Chunk, Block, ItemFailure):
            delete_in_batches(model._default_manager.filter(job_id=pk))
        job.only("pk").delete()
        deleted += 1
    return deleted
