"""Feeding a job: its source is written to blocks of items while workers already run the first ones."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from handbell.common.codec import encode
from handbell.common.heartbeat import heartbeat
from handbell.errors import JobRefused, NotJson
from handbell.models import JobRow
from handbell.parallel import doorbell

# A block is written when it has so many items, or after so many seconds. If items are large, it has fewer.
MAX_BLOCK_ITEMS, MAX_BLOCK_SECONDS, MAX_BLOCK_CHARACTERS = 10_000, 0.5, 1_000_000
FIRST_BLOCK_ITEMS, BLOCK_GROWTH = 100, 8
HEARTBEAT_SECONDS = 1.0


def feed_job(job_id: int, items: Iterable[Any]) -> None:
    """Write the items to blocks as they arrive; after the last one the source is complete.

    Raises:
        NotJson: an item is not JSON; those before it have arrived.
        JobRefused: the job has finished meanwhile.
    """
    with _source_heartbeat(job_id), _source_writer() as write:
        try:
            for text, count in _encoded_blocks(items):
                write(_append_block, job_id, text, count)
        except BaseException:
            if not connection.needs_rollback:
                write(_end_source, job_id, JobRow.INTERRUPTED)
            raise
        write(_end_source, job_id, JobRow.COMPLETE)


def _append_block(job_id: int, text: str, count: int) -> None:
    with transaction.atomic():
        job = JobRow.objects.select_for_update().get(pk=job_id)
        if job.finished:
            raise JobRefused(f"Job {job.pk} was {job.status} while its items were still arriving.")
        job.blocks.create(first=job.total, count=count, items=text)
        job.total += count
        job.source_state, job.source_seen_at = job.ARRIVING, timezone.now()
        job.save(update_fields=["total", "source_state", "source_seen_at"])
    doorbell.ring_after_commit(job_id)


def _end_source(job_id: int, state: str) -> None:
    """Set the source's state, and ring: the next doorbell sees whether all is done."""
    rows = JobRow.objects.filter(pk=job_id)
    rows.update(source_state=state, source_seen_at=timezone.now())
    if rows.filter(total__gt=0).exists():
        doorbell.ring_after_commit(job_id)


def _source_heartbeat(job_id: int) -> AbstractContextManager[None]:
    """Show every second that the source is still read, however slowly its items arrive. Within a transaction nobody
    would see it.
    """
    if connection.in_atomic_block:
        return nullcontext()
    rows = JobRow.objects.filter(pk=job_id)
    return heartbeat(HEARTBEAT_SECONDS, lambda: rows.update(source_seen_at=timezone.now()))


@contextmanager
def _source_writer() -> Iterator[Callable[..., None]]:
    """Yields `write(function, *args)`, which calls a function that writes while a source is being read.

    The source may be a queryset on this very database. A connection that is in the middle of reading from SQLite may
    not write any more once another one has written, so there the connection of another thread writes.
    """
    needs_thread = connection.vendor == "sqlite" and not connection.in_atomic_block
    if not needs_thread or connection.is_in_memory_db():  # type: ignore[attr-defined]
        yield lambda function, *args: function(*args)
        return
    with ThreadPoolExecutor(1, "source") as thread:
        try:
            yield lambda function, *args: thread.submit(function, *args).result()
        finally:
            thread.submit(lambda: connection.close()).result()


def _encoded_blocks(items: Iterable[Any]) -> Iterator[tuple[str, int]]:
    """The items as JSON arrays, each with the number of items in it.

    Raises:
        NotJson: an item is not JSON. The items before it have been yielded.
    """
    remaining, limit = iter(items), FIRST_BLOCK_ITEMS
    while True:
        block, end = [], time.monotonic() + MAX_BLOCK_SECONDS
        for item in islice(remaining, limit):
            block.append(item)
            if time.monotonic() > end:
                break
        if not block:
            return
        good = len(block)
        try:
            text = encode(block)
        except (TypeError, ValueError):
            good = next(number for number, item in enumerate(block) if not _is_json(item))
            text = encode(block[:good])
        if good:
            yield text, good
            limit = max(1, min(MAX_BLOCK_ITEMS, limit * BLOCK_GROWTH, MAX_BLOCK_CHARACTERS * good // len(text)))
        if good < len(block):
            raise NotJson(
                f"Items must be JSON, and {block[good]!r:.80} is a {type(block[good]).__name__}. "
                "Pass keys, numbers, texts, lists and dicts."
            )


def _is_json(item: Any) -> bool:
    try:
        encode(item)
    except (TypeError, ValueError):
        return False
    return True
