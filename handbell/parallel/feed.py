"""Feeding a job: its source is written to blocks of items while workers already run the first ones."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet

from handbell import states
from handbell.arguments import shown
from handbell.common.claims import new_claim_token
from handbell.common.codec import encode_arguments
from handbell.common.heartbeat import heartbeat
from handbell.errors import ArgumentsTooLarge, JobRefused, NotJson
from handbell.models import JobRow
from handbell.parallel import doorbell

# A block is written when it has so many items, or after so many seconds. If items are large, it has fewer.
MAX_BLOCK_ITEMS, MAX_BLOCK_SECONDS, MAX_BLOCK_CHARACTERS = 10_000, 0.5, 1_000_000
FIRST_BLOCK_ITEMS, BLOCK_GROWTH = 100, 8
HEARTBEAT_SECONDS = 1.0


def feed_job(job_id: int, items: Iterable[Any]) -> None:
    """Write the items to blocks as they arrive; after the last one the source is complete.

    Raises:
        NotJson, ArgumentsTooLarge: an item cannot be stored; those before it have arrived.
        JobRefused: the job has finished meanwhile, or somebody else goes on with its source.
    """
    token = _take_source(job_id)
    with _source_heartbeat(token), _source_writer() as write:
        try:
            for text, count in _encoded_blocks(items):
                write(_append_block, token, text, count)
        except BaseException:
            if not connection.needs_rollback:
                write(_end_source, token, JobRow.INTERRUPTED)
            raise
        write(_end_source, token, JobRow.COMPLETE)


def _take_source(job_id: int) -> int:
    """Become the one who reads the job's source; the token under which its items are written.

    Raises:
        JobRefused: the source is complete, somebody else reads it, or the job has finished.
    """
    token = new_claim_token()
    free = JobRow.objects.filter(pk=job_id, status__in=[states.QUEUED, states.RUNNING])
    free = free.filter(Q(source_state=JobRow.INTERRUPTED) | Q(source_state=JobRow.ARRIVING, source_token=None))
    if not free.update(source_state=JobRow.ARRIVING, source_token=token):
        raise JobRefused(
            f"The source of job {job_id} is complete, or somebody else reads it, or the job has finished. "
            "Start another job."
        )
    return token


def _source(token: int) -> QuerySet[JobRow]:
    return JobRow.objects.filter(source_token=token, source_state=JobRow.ARRIVING)


def _append_block(token: int, text: str, count: int) -> None:
    with transaction.atomic():
        job = _source(token).select_for_update().first()
        if job is None or job.finished:
            raise JobRefused(
                f"Job {job.pk} was {job.status} while its items were still arriving."
                if job
                else "The job's source was silent for too long, and was taken for interrupted."
            )
        job.blocks.create(first=job.total, count=count, items=text)
        job.total += count
        job.source_beats += 1
        job.save(update_fields=["total", "source_beats"])
    doorbell.ring_after_commit(job.pk)


def _end_source(token: int, state: str) -> None:
    """Set the source's state, and ring: the next doorbell sees whether all is done."""
    with transaction.atomic():
        job = _source(token).only("pk", "total").first()
        if job is None:
            return  # it was taken for interrupted
        JobRow.objects.filter(pk=job.pk).update(source_state=state, source_token=None)
        if job.total:
            doorbell.ring_after_commit(job.pk)


def _source_heartbeat(token: int) -> AbstractContextManager[None]:
    """Show every second that the source is still read, however slowly its items arrive. Within a transaction nobody
    would see it.
    """
    if connection.in_atomic_block:
        return nullcontext()
    return heartbeat(HEARTBEAT_SECONDS, lambda: _source(token).update(source_beats=F("source_beats") + 1))


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
        NotJson, ArgumentsTooLarge: an item cannot be stored.
        Exception: what the source raises. Either way the items before it have been yielded.
    """
    remaining, limit = iter(items), FIRST_BLOCK_ITEMS
    while True:
        block, error = _next_block(remaining, limit)
        if not block and error is None:
            return
        good = len(block)
        try:
            text = encode_arguments("Items", block)
        except (NotJson, ArgumentsTooLarge):
            good, text = _encode_good(block)
        if good:
            yield text, good
            limit = max(1, min(MAX_BLOCK_ITEMS, limit * BLOCK_GROWTH, MAX_BLOCK_CHARACTERS * good // len(text)))
        if good < len(block):
            _encode_item(block[good])
        if error is not None:
            raise error


def _next_block(remaining: Iterator[Any], limit: int) -> tuple[list[Any], Exception | None]:
    """The next items, and what the source raised after them, if it did."""
    block, end = list[Any](), time.monotonic() + MAX_BLOCK_SECONDS
    try:
        for item in islice(remaining, limit):
            block.append(item)
            if time.monotonic() > end:
                break
    except Exception as error:  # noqa: BLE001  (it is raised once these have been written)
        return block, error
    return block, None


def _encode_good(block: list[Any]) -> tuple[int, str]:
    """How many items of the block come before one that cannot be stored, and these as a JSON array."""
    texts = []
    for item in block:
        try:
            texts.append(_encode_item(item))
        except (NotJson, ArgumentsTooLarge):
            break
    return len(texts), f"[{','.join(texts)}]"


def _encode_item(item: Any) -> str:
    """
    Raises:
        NotJson, ArgumentsTooLarge: it cannot be stored.
    """
    return encode_arguments(f"Items such as {shown(item)}, a {type(item).__name__},", item)
