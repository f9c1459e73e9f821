"""Chunks whose process has died, was stopped, or leaves: they are given back, and run again."""

from collections.abc import Collection, Iterable

from django.db import transaction
from django.db.models import F, QuerySet

from handbell import states
from handbell.models import Chunk, JobRow
from handbell.models.owner import rows_claimed_by
from handbell.parallel import doorbell

CRASHES_BEFORE_HALVING = 3
UNCLAIMED = {"claimed_by": "", "claim_token": None}


def chunk_owners() -> Iterable[str]:
    """By whom chunks are claimed, and the ends of jobs."""
    chunks = running_chunks().order_by().values_list("claimed_by", flat=True).distinct()
    return [*chunks, *ending_jobs().values_list("claimed_by", flat=True)]


def running_chunks() -> QuerySet[Chunk]:
    """Those that somebody has claimed."""
    return Chunk.objects.filter(status=states.RUNNING)


def release_chunks(owner: str, tokens: Collection[int] | None = None) -> None:
    """When a worker leaves: what it or its processes have claimed, or what was claimed under these tokens, is run by
    others, without counting a crash.
    """
    release(rows_claimed_by(Chunk.objects.all(), owner, tokens))
    rows_claimed_by(ending_jobs(), owner, tokens).update(**UNCLAIMED)


def release(claimed: QuerySet[Chunk]) -> None:
    """Give these chunks back as they were."""
    for chunk in claimed.filter(status=states.RUNNING).only("pk", "job_id", "claim_token"):
        held = Chunk.objects.filter(pk=chunk.pk, claim_token=chunk.claim_token, status=states.RUNNING)
        if held.update(status=states.QUEUED, attempts=F("attempts") - 1, **UNCLAIMED):
            doorbell.ring_after_commit(chunk.job_id)


def recover_chunks(owner: str) -> None:
    """Put what a dead or silent process had claimed back into the queue, to be run in a subprocess.

    A chunk whose processes keep dying is halved each time, until the item that kills them is found.
    """
    release_crashed(rows_claimed_by(Chunk.objects.all(), owner))
    rows_claimed_by(ending_jobs(), owner).update(**UNCLAIMED)


def release_crashed(claimed: QuerySet[Chunk]) -> None:
    """Give these chunks back, and count that what ran them has crashed."""
    for chunk in claimed.filter(status=states.RUNNING).defer("results", "partials"):
        _recover_chunk(chunk)


def _recover_chunk(chunk: Chunk) -> None:
    with transaction.atomic():
        held = Chunk.objects.filter(pk=chunk.pk, claim_token=chunk.claim_token, status=states.RUNNING)
        if not held.select_for_update(skip_locked=True).exists():
            return  # its process holds the row, because it is completing the chunk: `save` may take long
        held.update(status=states.QUEUED, crash_count=F("crash_count") + 1, run_in_subprocess=True, **UNCLAIMED)
        is_whole = chunk.retry_offsets is None and chunk.count > 1
        if chunk.crash_count + 1 >= CRASHES_BEFORE_HALVING and is_whole:
            _halve_chunk(chunk)
        doorbell.ring_after_commit(chunk.job_id)


def _halve_chunk(chunk: Chunk) -> None:
    """Replace a chunk by two: it keeps the first half of its items."""
    half = chunk.count // 2
    Chunk.objects.filter(pk=chunk.pk).update(count=half)
    Chunk.objects.create(
        job_id=chunk.job_id,
        first=chunk.first + half,
        count=chunk.count - half,
        run_in_subprocess=True,
        crash_count=chunk.crash_count,
    )


def ending_jobs() -> QuerySet[JobRow]:
    """Those whose end somebody has claimed."""
    return JobRow.objects.exclude(claimed_by="")
