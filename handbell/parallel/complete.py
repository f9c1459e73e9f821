"""Completing a chunk: its results, the job's counts and what `save` writes, all in one transaction.

Reducing and encoding take their time before it, while nothing is locked.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from handbell import states
from handbell.common.codec import encode
from handbell.models import Chunk, ItemFailure, JobRow
from handbell.parallel.claim import ChunkClaim
from handbell.parallel.executor import ChunkOutcome, FailedItem, encode_outcome, failed_item
from handbell.parallel.finish import END_FIELDS, end_if_nothing_to_reduce, load_reducer
from handbell.parallel.import_paths import load_function
from handbell.parallel.parts import call_with_parts

MAX_CHUNK_CHARACTERS = 16_000_000  # of a chunk, about: they are in memory at once
SMOOTHING = 0.6  # the weight of the newest chunk in the seconds per item
MAX_FAILURES_KEPT = 1_000  # with their tracebacks; the count is exact all the same
MAX_ITEM_CHARACTERS = 2_000  # of the item that is kept with its failure
MAX_SAVE_ROUNDS = 3  # in each of which `save` has refused items that it had taken before

logger = logging.getLogger(__name__)


class _SaveRefused(Exception):
    """`save` has raised errors for some of the values, by their indexes, so the transaction is undone."""

    def __init__(self, errors: Mapping[int, BaseException]) -> None:
        super().__init__(errors)
        self.errors = errors


@dataclass
class _Completion:
    """What is to be written of a chunk. `good` are the results of the items that have not failed, and `offsets` those
    of the items that were to be run, within the chunk.
    """

    claim: ChunkClaim
    outcome: ChunkOutcome
    items: Sequence[Any]
    offsets: Sequence[int]
    good: list[Any] = field(default_factory=list)
    good_numbers: list[int] = field(default_factory=list)
    text: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def failed_count(self) -> int:
        """How many have failed, those of a retry included that were not run."""
        not_run = 0 if self.claim.chunk.retry_offsets is None else len(self.offsets) - len(self.outcome.results)
        return len(self.outcome.failed) + not_run


def complete_chunk(claim: ChunkClaim, outcome: ChunkOutcome, items: Sequence[Any]) -> bool:
    """Write the outcome of a chunk's `items`. False if the chunk has been given to another process meanwhile.

    Items whose results `save` or `reduce` does not take have failed.

    Raises:
        django.db.Error: the database was away, so nothing is written.
    """
    chunk = claim.chunk
    offsets = range(chunk.count) if chunk.retry_offsets is None else chunk.retry_offsets
    for _ in range(MAX_SAVE_ROUNDS):
        completion = _prepare(_Completion(claim, outcome, items, offsets))
        try:
            with transaction.atomic():
                return _write(completion)
        except _SaveRefused as refused:
            _fail(completion, "save", refused.errors)
            last = next(iter(refused.errors.values()))
    _fail(completion, "save", dict.fromkeys(range(len(completion.good)), last))
    with transaction.atomic():
        return _write(_prepare(_Completion(claim, outcome, items, offsets)))


def _fail(completion: _Completion, refused_by: str, errors: Mapping[int, BaseException]) -> None:
    """Have the items fail whose results were refused."""
    outcome = completion.outcome
    already = {it.offset for it in outcome.failed}
    for index, cause in errors.items():
        number = completion.good_numbers[index]
        if number not in already:
            _, error, trace = failed_item(0, cause)
            outcome.failed.append(FailedItem(number, f"{refused_by}: {error}", trace))
            outcome.results[number] = None
    outcome.failed.sort()


def _prepare(completion: _Completion) -> _Completion:
    """Encode the results, and reduce those that are good."""
    _encode(completion)
    chunk, job = completion.claim.chunk, completion.claim.job
    if job.reducer and completion.good:
        reduce = load_reducer(job, in_subprocess=chunk.run_in_subprocess)
        partials, errors = call_with_parts(reduce, completion.good)
        if errors:
            _fail(completion, "reduce", errors)
            _encode(completion)
        if chunk.retry_offsets is not None:
            partials = [*json.loads(chunk.partials or "[]"), *partials]
        if len(partials) > 1:
            values = _values_in_order(completion) or partials
            together, errors = call_with_parts(reduce, values)
            partials = partials if errors else together  # it takes them one by one only
        completion.changes["partials"] = encode(partials)
    return completion


def _values_in_order(completion: _Completion) -> list[Any] | None:
    """All results of a chunk that is retried, in the order of its items; None if they are not kept."""
    results, failed = completion.changes["results"], set(completion.changes["failed_offsets"])
    if completion.claim.chunk.retry_offsets is None or results is None:
        return None
    return [value for offset, value in enumerate(json.loads(results)) if offset not in failed]


def _encode(completion: _Completion) -> None:
    chunk, outcome = completion.claim.chunk, completion.outcome
    completion.text, done = encode_outcome(outcome), len(outcome.results)
    failed = {it.offset for it in outcome.failed}
    completion.good_numbers = [number for number in range(done) if number not in failed]
    completion.good = [outcome.results[number] for number in completion.good_numbers]
    offsets = completion.offsets
    if chunk.retry_offsets is None:
        completion.changes |= {"count": done, "results": completion.text, "failed_offsets": sorted(failed)}
    else:
        left = [offsets[number] for number in range(len(offsets)) if number in failed or number >= done]
        completion.changes |= {"failed_offsets": sorted(left), "results": _results_after_retry(chunk, outcome.results)}
    if not completion.claim.job.keep_results:
        completion.changes["results"] = None


def _results_after_retry(chunk: Chunk, new_results: Sequence[Any]) -> str | None:
    """The results of a retried chunk, with the new ones in their places; None if results are not kept."""
    if chunk.results is None:
        return None
    results = json.loads(chunk.results)
    for offset, result in zip(chunk.retry_offsets or (), new_results, strict=False):
        results[offset] = result
    return encode(results)


def _write(completion: _Completion) -> bool:
    claim, outcome = completion.claim, completion.outcome
    chunk, job, done = claim.chunk, claim.job, len(outcome.results)
    ended: dict[str, Any] = {"status": states.SUCCEEDED, "claimed_by": "", "claim_token": None, "retry_offsets": None}
    ended |= {"seconds": outcome.seconds, "finished_at": timezone.now()}
    if not claim.row().update(**ended, **completion.changes):
        return False
    if done < len(completion.offsets) and chunk.retry_offsets is None:
        job.chunks.create(first=chunk.first + done, count=chunk.count - done, run_in_subprocess=chunk.run_in_subprocess)
    if job.saver and completion.good:
        _, errors = call_with_parts(partial(_save, load_function(job.saver)), completion.good)
        if errors:
            raise _SaveRefused(errors)
    _keep_failures(completion)
    _update_job(completion)
    if outcome.failed:
        transaction.on_commit(partial(_log_failures, claim, outcome))
    return True


def _save(save: Any, values: list[Any]) -> None:
    with transaction.atomic():
        save(values)


def _log_failures(claim: ChunkClaim, outcome: ChunkOutcome) -> None:
    """Once for the whole chunk: there may be thousands, and each is kept with the job."""
    failed, total, first = len(outcome.failed), len(outcome.results), outcome.failed[0]
    where = f"{claim.job.name} (job {claim.job.pk})"
    logger.error("%s of %s items of %s failed: %s\n%s", failed, total, where, first.error, first.traceback.rstrip())


def _keep_failures(completion: _Completion) -> None:
    claim, failed = completion.claim, completion.outcome.failed
    room = max(0, MAX_FAILURES_KEPT - claim.job.failure_rows.count()) if failed else 0
    ItemFailure.objects.bulk_create(
        ItemFailure(
            job=claim.job,
            index=claim.chunk.first + completion.offsets[it.offset],
            item=encode(completion.items[it.offset])[:MAX_ITEM_CHARACTERS],
            error=it.error,
            traceback=it.traceback,
        )
        for it in failed[:room]
    )


def _update_job(completion: _Completion) -> None:
    """Count the items, note how long they take, and end the job if they were the last and nothing is to be reduced."""
    outcome = completion.outcome
    job = JobRow.objects.select_for_update().get(pk=completion.claim.job.pk)
    job.succeeded += len(completion.good)
    job.failed += completion.failed_count
    if outcome.results:
        # Large results count as slow items, so that chunks get shorter.
        seconds = max(outcome.seconds, job.chunk_seconds * len(completion.text) / MAX_CHUNK_CHARACTERS)
        newest = seconds / len(outcome.results)
        before = newest if job.seconds_per_item is None else job.seconds_per_item
        job.seconds_per_item = SMOOTHING * newest + (1 - SMOOTHING) * before
    end_if_nothing_to_reduce(job)
    job.save(update_fields=["succeeded", "failed", "seconds_per_item", *END_FIELDS])
