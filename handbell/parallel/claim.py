"""Claiming chunks: the doorbell with the current token takes the next range of items, or a chunk that was given back.

How many items a chunk has follows from how long items have taken so far.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from handbell import states
from handbell.common.claims import claim_owner
from handbell.models import Chunk, JobRow
from handbell.parallel import doorbell

MAX_CHUNK_ITEMS = 100_000  # their results are one row, which is read back in a moment
MAX_CHUNK_BLOCKS = 16  # they are in memory at once, and large items come in many blocks
MAX_CHUNK_GROWTH = 8  # times as many items as in the chunk before: these may take longer
MIN_CHUNK_SECONDS = 0.02  # the last chunks of a job get smaller, down to what is worth a claim


@dataclass(frozen=True)
class ChunkClaim:
    """A chunk that this process may run and complete for as long as the row has this token."""

    job: JobRow
    chunk: Chunk
    token: int

    def row(self) -> QuerySet[Chunk]:
        """The chunk's row, as long as the claim holds; nothing after that."""
        return Chunk.objects.filter(pk=self.chunk.pk, claim_token=self.token, status=states.RUNNING)

    def holds(self) -> bool:
        """Whether to go on: nobody else has been given the chunk, and the job is not to stop."""
        return self.row().filter(job__status=states.RUNNING).exists()

    def items(self) -> Sequence[Any]:
        """All items of the chunk, read from the job's range or from its blocks."""
        first, count = self.chunk.first, self.chunk.count
        numbers = self.job.range
        if numbers is not None:
            return numbers[first : first + count]
        found: list[Any] = []
        end = first + count
        start = self.job.blocks.filter(first__lte=first).order_by("-first").values_list("first", flat=True).first()
        blocks = self.job.blocks.filter(first__gte=start or 0, first__lt=end).order_by("first")
        for block in blocks.iterator(chunk_size=10):
            items = json.loads(block.items)
            found += items[max(0, first - block.first) : end - block.first]
        return found


def claim_chunk(job_id: int, ring_token: int, claim_token: int) -> ChunkClaim | None:
    """Claim a chunk for the doorbell with this `ring_token`, and send the next doorbell if there is more to do.

    None if there is nothing to do, or this doorbell was answered before.
    """
    with transaction.atomic():
        _commit_asynchronously()
        job = JobRow.objects.select_for_update().filter(pk=job_id, ring_token=ring_token).first()
        if job is None:
            return None
        job.ring_token += 1
        chunk = None
        if job.status in {states.QUEUED, states.RUNNING} and not job.paused:
            chunk = _claim_waiting_chunk(job, claim_token) or _claim_new_chunk(job, claim_token)
        if chunk is not None and job.started_at is None:
            job.status, job.started_at = states.RUNNING, chunk.started_at
        more = chunk is not None and (job.claimed < job.total or job.chunks.filter(status=states.QUEUED).exists())
        job.no_ring_pending, job.rung_at, job.ring_attempts = not more, timezone.now(), 0
        job.save(
            update_fields=[
                "ring_token",
                "status",
                "started_at",
                "claimed",
                "last_size",
                "no_ring_pending",
                "rung_at",
                "ring_attempts",
            ]
        )
    if more:
        doorbell.send(job)
    return ChunkClaim(job, chunk, claim_token) if chunk is not None else None


def _commit_asynchronously() -> None:
    """Commit without waiting for the disk: a chunk whose claim is lost in a crash of the database is claimed again, and
    its late owner is refused.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = off")


def _claim_waiting_chunk(job: JobRow, claim_token: int) -> Chunk | None:
    """Claim the first chunk that was given back. If it has more items than it should have, the rest stays queued."""
    chunk = job.chunks.select_for_update(skip_locked=True).filter(status=states.QUEUED).order_by("first").first()
    if chunk is None:
        return None
    is_fixed = chunk.retry_offsets is not None or chunk.run_in_subprocess
    size = chunk.count if is_fixed else next_chunk_size(job, chunk.count)
    if size < chunk.count:
        job.chunks.create(first=chunk.first + size, count=chunk.count - size)
        chunk.count = size
    now = timezone.now()
    chunk.status, chunk.attempts, chunk.started_at = states.RUNNING, chunk.attempts + 1, now
    chunk.claimed_by, chunk.claim_token = claim_owner(), claim_token
    chunk.save(update_fields=["count", "status", "attempts", "started_at", "claimed_by", "claim_token"])
    return chunk


def _claim_new_chunk(job: JobRow, claim_token: int) -> Chunk | None:
    """Claim the first items that are in no chunk yet."""
    waiting = job.total - job.claimed
    if not waiting:
        return None
    job.last_size = next_chunk_size(job, waiting)
    if job.range is None and job.chunk_size is None:
        later = job.blocks.filter(first__gt=job.claimed).order_by("first").values_list("first", flat=True)
        for first in later[MAX_CHUNK_BLOCKS - 1 : MAX_CHUNK_BLOCKS]:
            job.last_size = min(job.last_size, first - job.claimed)
    now = timezone.now()
    chunk = Chunk.objects.create(
        job=job,
        first=job.claimed,
        count=job.last_size,
        status=states.RUNNING,
        attempts=1,
        started_at=now,
        claimed_by=claim_owner(),
        claim_token=claim_token,
    )
    job.claimed += job.last_size
    return chunk


def next_chunk_size(job: JobRow, waiting: int) -> int:
    """How many of the `waiting` items the next chunk gets: as many as take `chunk_seconds`, but not many more than the
    chunk before had, and fewer towards the end, so that all workers finish together.
    """
    if job.chunk_size is not None:
        return min(job.chunk_size, waiting)
    if job.seconds_per_item is None:
        return min(job.threads, waiting)
    seconds_per_item = max(job.seconds_per_item, 1e-9)
    size = min(
        job.chunk_seconds / seconds_per_item, max(job.threads, job.last_size) * MAX_CHUNK_GROWTH, MAX_CHUNK_ITEMS
    )
    if job.source_state == JobRow.COMPLETE:
        active = 1 + job.chunks.filter(status=states.RUNNING).count()
        size = min(size, max(math.ceil(waiting / (2 * active)), MIN_CHUNK_SECONDS / seconds_per_item))
    return int(min(waiting, max(1, size)))
