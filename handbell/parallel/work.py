"""The task that answers a job's doorbell: claim a chunk, run its items, complete it."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import shared_task
from django.db import connections

from handbell.common.claims import new_claim_token
from handbell.common.db_retry import write_or_exit
from handbell.common.heartbeat import heartbeat
from handbell.common.outages import is_outage
from handbell.common.stop_pipe import is_stop_announced
from handbell.common.time_limits import is_told_to_stop
from handbell.models import Chunk
from handbell.parallel.claim import ChunkClaim, claim_chunk
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
from handbell.parallel.recover import release, release_crashed
from handbell.parallel.subprocess_executor import SubprocessExecutor

MAX_CHUNK_OVERRUN = 2  # a chunk that takes so many times `chunk_seconds` gives the rest of its items back
LOOK_SECONDS = 0.7  # how often a chunk looks whether its job is cancelled, or its worker is told to stop
MAX_ITEM_CRASHES = 6  # an item whose owners died so often has failed
logger = logging.getLogger(__name__)


@shared_task(name=WORK, ignore_result=True)
def work(job_id: int, ring_token: int) -> None:
    """Run the next chunk of the job."""
    token = new_claim_token()
    try:
        claim = claim_chunk(job_id, ring_token, token)
        if claim is not None:
            _run_and_complete(claim)
    except BaseException as error:
        connections.close_all()
        give_back = release if is_outage(error) or is_told_to_stop(error) else release_crashed
        write_or_exit(lambda: give_back(Chunk.objects.filter(claim_token=token)), f"That a chunk of job {job_id} waits")
        raise
    finish_if_done(job_id, in_subprocess=claim is None or claim.chunk.run_in_subprocess)


def _run_and_complete(claim: ChunkClaim) -> None:
    items = claim.items()
    if claim.chunk.retry_offsets is not None:
        items = [items[offset] for offset in claim.chunk.retry_offsets]
    with _watching(claim) as stop, job_context(claim.job.pk):
        outcome = _run_items(claim, items, stop)
    if write_or_exit(lambda: complete_chunk(claim, outcome, items), f"The results of {claim.chunk}") is False:
        logger.warning("The results of %s were refused: it was given to another process.", claim.chunk)


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
        outcome = SubprocessExecutor(job.stages, items, stop, job.threads, job.item_timeout).run()
    elif async_call is not None:
        outcome = run_on_loop(async_call, items, stop, job.threads)
    elif job.threads > 1:
        outcome = run_in_threads(call, items, stop, job.threads)
    else:
        outcome = run_sequentially(call, items, stop)
    outcome.seconds = time.perf_counter() - started
    return outcome


@contextmanager
def _watching(claim: ChunkClaim) -> Iterator[StopCondition]:
    """While the block runs, look every so often whether to go on; stop once the claim is lost, the job is cancelled, or
    the worker is told to stop.
    """
    has_time_limit = claim.job.chunk_size is None and claim.chunk.retry_offsets is None
    stop = StopCondition(MAX_CHUNK_OVERRUN * claim.job.chunk_seconds if has_time_limit else None)

    def look() -> None:
        if is_stop_announced() or not claim.holds():
            stop.now.set()

    with heartbeat(LOOK_SECONDS, look):
        yield stop
