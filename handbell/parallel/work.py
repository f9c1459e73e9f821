"""The task that answers a job's doorbell: claim a chunk, run its items, complete it."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import shared_task

from handbell.common.heartbeat import heartbeat
from handbell.common.outages import retry_through_outage
from handbell.parallel.claim import ChunkClaim, claim_chunk, renew_claim
from handbell.parallel.complete import complete_chunk
from handbell.parallel.doorbell import WORK
from handbell.parallel.executor import (
    ChunkOutcome,
    FailedItem,
    StopCondition,
    compose_async_stages,
    compose_stages,
    failed_item,
    job_context,
    run_in_threads,
    run_on_loop,
    run_sequentially,
)
from handbell.parallel.finish import finish_if_done
from handbell.parallel.import_paths import load_function
from handbell.parallel.subprocess_executor import SubprocessExecutor

MAX_CHUNK_OVERRUN = 2  # a chunk that takes so many times `chunk_seconds` gives the rest of its items back
RENEWAL_SECONDS = 0.7  # how often a chunk renews its claim, and learns that its job is cancelled
MAX_ITEM_CRASHES = 6  # an item whose owners died so often has failed
logger = logging.getLogger(__name__)


@shared_task(name=WORK, ignore_result=True)
def work(job_id: int, ring_token: int) -> None:
    """Run the next chunk of the job."""
    claim = claim_chunk(job_id, ring_token)
    if claim is None:
        finish_if_done(job_id)
        return
    items = claim.items()
    if claim.chunk.retry_offsets is not None:
        items = [items[offset] for offset in claim.chunk.retry_offsets]
    with _renewing(claim) as stop, job_context(job_id):
        outcome = _run_items(claim, items, stop)
    if not retry_through_outage(lambda: complete_chunk(claim, outcome, items)):
        logger.warning("The results of %s were refused: the claim had expired.", claim.chunk)


def _run_items(claim: ChunkClaim, items: Sequence[Any], stop: StopCondition) -> ChunkOutcome:
    job, chunk = claim.job, claim.chunk
    if chunk.crash_count >= MAX_ITEM_CRASHES and (chunk.count == 1 or chunk.retry_offsets is not None):
        error = f"ProcessDied: the process died {chunk.crash_count} times while it ran this item, or saved it"
        return ChunkOutcome([None] * len(items), [FailedItem(number, error, "") for number in range(len(items))])
    started = time.perf_counter()
    try:
        call = compose_stages(job.stages)
        async_call = compose_async_stages(job.stages) if job.threads > 1 else None
        for function in filter(None, (job.reducer, job.saver)):
            load_function(function)  # so that a missing one is noticed before the work
    except Exception as error:  # noqa: BLE001  (a task or function is missing: every item fails with that)
        return ChunkOutcome([None] * len(items), [failed_item(number, error) for number in range(len(items))])
    if chunk.run_in_subprocess or job.item_timeout is not None:
        outcome = SubprocessExecutor(call, items, stop, job.threads, job.item_timeout).run()
    elif async_call is not None:
        outcome = run_on_loop(async_call, items, stop, job.threads)
    elif job.threads > 1:
        outcome = run_in_threads(call, items, stop, job.threads)
    else:
        outcome = run_sequentially(call, items, stop)
    outcome.seconds = time.perf_counter() - started
    return outcome


@contextmanager
def _renewing(claim: ChunkClaim) -> Iterator[StopCondition]:
    """While the block runs, renew the claim every so often; stop once it is lost, or the job is cancelled."""
    has_time_limit = claim.job.chunk_size is None and claim.chunk.retry_offsets is None
    stop = StopCondition(MAX_CHUNK_OVERRUN * claim.job.chunk_seconds if has_time_limit else None)

    def renew() -> None:
        if not renew_claim(claim):
            stop.now.set()

    with heartbeat(RENEWAL_SECONDS, renew):
        yield stop
