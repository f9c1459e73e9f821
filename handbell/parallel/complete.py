"""Completing a chunk: its results, the job's counts and what `save` writes, all in one transaction."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from handbell import states
from handbell.common.codec import encode
from handbell.common.outages import is_outage
from handbell.models import Chunk, ItemFailure, JobRow
from handbell.parallel import doorbell
from handbell.parallel.claim import ChunkClaim, halve_chunk
from handbell.parallel.executor import ChunkOutcome, FailedItem, encode_outcome, failed_item
from handbell.parallel.finish import finish_locked_job, load_reducer
from handbell.parallel.import_paths import load_function

MAX_CHUNK_CHARACTERS = 16_000_000  # of a chunk, about: they are in memory at once
SMOOTHING = 0.6  # the weight of the newest chunk in the seconds per item
MAX_FAILURES_KEPT = 1_000  # with their tracebacks; the count is exact all the same
MAX_ITEM_CHARACTERS = 2_000  # of the item that is kept with its failure


logger = logging.getLogger(__name__)


class _ResultsRefused(Exception):
    """`save` or `reduce` raised an error for the results of a chunk. The error is the cause."""


def complete_chunk(claim: ChunkClaim, outcome: ChunkOutcome, items: Sequence[Any]) -> bool:
    """Write the outcome of a chunk's `items`. False if the chunk has been given to another process meanwhile.

    If `save` or `reduce` raises an error, the chunk is halved, and each half is run and written on its own, and so on
    until the item at fault is found.

    Raises:
        django.db.Error: the database was away, so nothing is written.
    """
    try:
        with transaction.atomic():
            return _write_outcome(claim, outcome, items)
    except _ResultsRefused as refused:
        refused_by, cause = str(refused), refused.__cause__
    assert cause is not None
    if is_outage(cause):
        raise cause  # not the fault of an item
    with transaction.atomic():
        if not _claimed_chunk(claim).select_for_update().exists():
            return False
        if claim.chunk.retry_offsets is None and claim.chunk.count > 1:
            halve_chunk(claim.chunk, run_in_subprocess=claim.chunk.run_in_subprocess)
            _claimed_chunk(claim).update(status=states.QUEUED)
            doorbell.ring_after_commit(claim.job.pk)
            return True
        _, error, trace = failed_item(0, cause)
        failed = [FailedItem(number, f"{refused_by}: {error}", trace) for number in range(len(items))]
        return _write_outcome(claim, ChunkOutcome([None] * len(items), failed, outcome.seconds), items)


def _claimed_chunk(claim: ChunkClaim) -> QuerySet[Chunk]:
    """The chunk's row, as long as the claim holds; nothing after that."""
    return Chunk.objects.filter(pk=claim.chunk.pk, attempts=claim.attempt, status=states.RUNNING)


def _write_outcome(claim: ChunkClaim, outcome: ChunkOutcome, items: Sequence[Any]) -> bool:
    chunk, job = claim.chunk, claim.job
    text, done = encode_outcome(outcome), len(outcome.results)
    failed = {it.offset for it in outcome.failed}
    good = [result for offset, result in enumerate(outcome.results) if offset not in failed]
    change: dict[str, Any] = {"retry_offsets": None, "lease_expires_at": None, "finished_at": timezone.now()}
    if chunk.retry_offsets is None:
        offsets: Sequence[int] = range(chunk.count)
        not_run = 0
        change |= {"count": done, "results": text, "failed_offsets": sorted(failed)}
        to_fold = good
    else:
        offsets, not_run = chunk.retry_offsets, len(chunk.retry_offsets) - done
        failed_offsets = sorted(offsets[number] for number in range(len(offsets)) if number in failed or number >= done)
        change |= {"failed_offsets": failed_offsets, "results": _results_after_retry(chunk, outcome.results)}
        to_fold = _values_to_fold_after_retry(chunk, change["results"], failed_offsets, good)
    if job.reducer and good:
        with _refused_by("reduce"):
            change["partial"] = encode(load_reducer(job, in_subprocess=chunk.run_in_subprocess)(to_fold))
    if not job.keep_results:
        change["results"] = None
    if not _claimed_chunk(claim).update(status=states.SUCCEEDED, seconds=outcome.seconds, **change):
        return False
    if done < len(offsets) and chunk.retry_offsets is None:
        job.chunks.create(first=chunk.first + done, count=chunk.count - done, run_in_subprocess=chunk.run_in_subprocess)
    if job.saver and good:
        with _refused_by("save"), transaction.atomic():
            load_function(job.saver)(good)
    _keep_failures(claim, outcome.failed, offsets, items)
    _update_job(claim, outcome, len(good), len(failed) + not_run, len(text))
    if outcome.failed:
        transaction.on_commit(partial(_log_failures, claim, outcome))
    return True


def _log_failures(claim: ChunkClaim, outcome: ChunkOutcome) -> None:
    """Once for the whole chunk: there may be thousands, and each is kept with the job."""
    failed, total, first = len(outcome.failed), len(outcome.results), outcome.failed[0]
    where = f"{claim.job.name} (job {claim.job.pk})"
    logger.error("%s of %s items of %s failed: %s\n%s", failed, total, where, first.error, first.traceback.rstrip())


@contextmanager
def _refused_by(what: str) -> Iterator[None]:
    """Tell an error of the user's `save` or `reduce` from one of our own."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise _ResultsRefused(what) from error


def _results_after_retry(chunk: Chunk, new_results: Sequence[Any]) -> str | None:
    """The results of a retried chunk, with the new ones in their places; None if results are not kept."""
    if chunk.results is None:
        return None
    results = json.loads(chunk.results)
    for offset, result in zip(chunk.retry_offsets or (), new_results, strict=False):
        results[offset] = result
    return encode(results)


def _values_to_fold_after_retry(
    chunk: Chunk, results: str | None, failed_offsets: list[int], good: list[Any]
) -> list[Any]:
    """What `reduce` gets for a retried chunk: all its results; without those, its earlier value and the new ones."""
    if results is not None:
        left_out = set(failed_offsets)
        return [value for offset, value in enumerate(json.loads(results)) if offset not in left_out]
    return [*([json.loads(chunk.partial)] if chunk.partial is not None else []), *good]


def _keep_failures(
    claim: ChunkClaim, failed: Sequence[FailedItem], offsets: Sequence[int], items: Sequence[Any]
) -> None:
    room = max(0, MAX_FAILURES_KEPT - claim.job.failure_rows.count()) if failed else 0
    ItemFailure.objects.bulk_create(
        ItemFailure(
            job=claim.job,
            index=claim.chunk.first + offsets[it.offset],
            item=encode(items[it.offset])[:MAX_ITEM_CHARACTERS],
            error=it.error,
            traceback=it.traceback,
        )
        for it in failed[:room]
    )


def _update_job(claim: ChunkClaim, outcome: ChunkOutcome, succeeded: int, failed: int, characters: int) -> None:
    """Count the items, note how long they take, and end the job if they were the last."""
    job = JobRow.objects.select_for_update().get(pk=claim.job.pk)
    job.succeeded += succeeded
    job.failed += failed
    if outcome.results:
        # Large results count as slow items, so that chunks get shorter.
        seconds = max(outcome.seconds, job.chunk_seconds * characters / MAX_CHUNK_CHARACTERS)
        newest = seconds / len(outcome.results)
        before = newest if job.seconds_per_item is None else job.seconds_per_item
        job.seconds_per_item = SMOOTHING * newest + (1 - SMOOTHING) * before
    finish_locked_job(job, in_subprocess=claim.chunk.run_in_subprocess)
    job.save()
