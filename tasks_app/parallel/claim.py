"""Claiming: the doorbell with the current number takes the next range of items, or one that was given back.

How many items that are follows from how long they have taken so far.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from tasks_app import states
from tasks_app.models import Chunk, Job
from tasks_app.models.job_handle import send
from tasks_app.owners import owner

MOST_ITEMS = 100_000  # in a chunk: what fits into one row of results and is read back in a moment
MOST_BLOCKS = 16  # that a chunk takes its items from, for these are in memory at once: large ones come in many
GROWTH = 8  # a chunk is at most so many times as long as the one before: its items may take longer
SHORTEST_SECONDS = 0.02  # the last chunks get smaller, down to what is worth a claim
DEATHS_BEFORE_HALVING = 3


@dataclass(frozen=True)
class Claim:
    """A chunk that is ours while `attempt` is its latest one, with what it takes to run it."""

    job: Job
    chunk: Chunk
    attempt: int

    def items(self) -> Sequence[Any]:
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


def claim(job_id: int, number: int) -> Claim | None:
    """Take a chunk for the doorbell `number`, and send the next one if more is to be had. None: there is nothing to
    do, or this doorbell was answered before.
    """
    with transaction.atomic():
        _do_not_wait_for_the_disk()
        job = Job.objects.select_for_update().filter(pk=job_id, bell=number).first()
        if job is None:
            return None
        job.bell += 1
        chunk = None
        if job.status in {states.QUEUED, states.RUNNING} and not job.paused:
            chunk = _given_back(job) or _next(job)
        if chunk is not None and job.started_at is None:
            job.status, job.started_at = states.RUNNING, chunk.started_at
        more = chunk is not None and (job.claimed < job.total or job.chunks.filter(status=states.QUEUED).exists())
        job.idle, job.rung_at, job.rings = not more, timezone.now(), 0
        job.save(update_fields=["bell", "status", "started_at", "claimed", "last_size", "idle", "rung_at", "rings"])
    if more:
        send(job, job.bell)
    return Claim(job, chunk, chunk.attempts) if chunk is not None else None


def _do_not_wait_for_the_disk() -> None:
    """A claim that the database forgets in a crash is claimed again, and its late owner refused."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = off")


def _given_back(job: Job) -> Chunk | None:
    """The first chunk that waits; if it is larger than it should be by now, the rest of it goes on waiting."""
    chunk = job.chunks.select_for_update(skip_locked=True).filter(status=states.QUEUED).order_by("first").first()
    if chunk is None:
        return None
    size = chunk.count if chunk.only is not None or chunk.careful else size_of_next(job, chunk.count)
    if size < chunk.count:
        job.chunks.create(first=chunk.first + size, count=chunk.count - size)
        chunk.count = size
    now = timezone.now()
    chunk.status, chunk.attempts, chunk.started_at = states.RUNNING, chunk.attempts + 1, now
    chunk.owner, chunk.owner_until = owner(), now + lease()
    chunk.save(update_fields=["count", "status", "attempts", "started_at", "owner", "owner_until"])
    return chunk


def _next(job: Job) -> Chunk | None:
    waiting = job.total - job.claimed
    if not waiting:
        return None
    job.last_size = size_of_next(job, waiting)
    if job.range is None and job.chunk_size is None:
        later = job.blocks.filter(first__gt=job.claimed).order_by("first").values_list("first", flat=True)
        for first in later[MOST_BLOCKS - 1 : MOST_BLOCKS]:
            job.last_size = min(job.last_size, first - job.claimed)
    now = timezone.now()
    chunk = Chunk.objects.create(
        job=job,
        first=job.claimed,
        count=job.last_size,
        status=states.RUNNING,
        attempts=1,
        started_at=now,
        owner=owner(),
        owner_until=now + lease(),
    )
    job.claimed += job.last_size
    return chunk


def size_of_next(job: Job, waiting: int) -> int:
    """How many items the next chunk gets: as many as take `chunk_seconds`, fewer towards the end so that all workers
    finish together, and not many more than the last one had.
    """
    if job.chunk_size is not None:
        return min(job.chunk_size, waiting)
    if job.seconds_per_item is None:
        return min(job.threads, waiting)
    pace = max(job.seconds_per_item, 1e-9)
    size = min(job.chunk_seconds / pace, max(job.threads, job.last_size) * GROWTH, MOST_ITEMS)
    if job.source_state == Job.COMPLETE:
        active = 1 + job.chunks.filter(status=states.RUNNING, owner_until__gt=timezone.now()).count()
        size = min(size, max(math.ceil(waiting / (2 * active)), SHORTEST_SECONDS / pace))
    return int(min(waiting, max(1, size)))


def renew(claim: Claim) -> bool:
    """Keep the claim for longer; False if it has gone to someone else, or the job is not to go on."""
    ours = Chunk.objects.filter(pk=claim.chunk.pk, attempts=claim.attempt, status=states.RUNNING)
    return bool(ours.filter(job__status=states.RUNNING).update(owner_until=timezone.now() + lease()))


def lost(chunk: Chunk) -> None:
    """The owner of a chunk is gone: give it to somebody else, who runs it with care; a chunk that kills its owners
    again and again is cut in two, until the one item is found.
    """
    with transaction.atomic():
        ours = Chunk.objects.filter(pk=chunk.pk, attempts=chunk.attempts, status=states.RUNNING)
        if not ours.select_for_update(skip_locked=True).exists():
            return  # its owner is just writing what came of it, however long `save` takes for that
        taken = ours.update(
            status=states.QUEUED, attempts=F("attempts") + 1, deaths=F("deaths") + 1, careful=True, owner_until=None
        )
        if taken and chunk.deaths + 1 >= DEATHS_BEFORE_HALVING and chunk.count > 1 and chunk.only is None:
            halve(chunk, careful=True)


def halve(chunk: Chunk, *, careful: bool) -> None:
    """Two chunks in the place of one, in the caller's transaction."""
    half = chunk.count // 2
    Chunk.objects.filter(pk=chunk.pk).update(count=half)
    Chunk.objects.create(
        job_id=chunk.job_id, first=chunk.first + half, count=chunk.count - half, careful=careful, deaths=chunk.deaths
    )


def lease() -> timedelta:
    return timedelta(seconds=settings.PARALLEL_LEASE_SECONDS)
