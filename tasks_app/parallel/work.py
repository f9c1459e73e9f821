"""The doorbell of a job: claim a chunk, run it, write what came of it."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import shared_task
from django.db import InterfaceError, OperationalError, connection

from tasks_app.heartbeat import beating
from tasks_app.models.job_handle import WORK
from tasks_app.parallel.claim import Claim, claim, renew
from tasks_app.parallel.finish import complete, finish_if_done
from tasks_app.parallel.forked import Forked
from tasks_app.parallel.references import find
from tasks_app.parallel.run import Failed, Outcome, Stop, compose, describe, inside, run_here, run_in_threads

PATIENCE = 2  # a chunk gives the rest of its items back when it has taken so many times as long as it should
LOOK_SECONDS = 0.7  # how often a chunk that takes longer asks whether it is still to go on
MOST_DEATHS = 6  # of the owners of a single item
TRIES, PAUSE_SECONDS = 8, 0.5  # of writing results while the database does not answer
logger = logging.getLogger(__name__)


@shared_task(name=WORK, ignore_result=True)
def work(job_id: int, number: int) -> None:
    """Do the next chunk of the job."""
    claimed = claim(job_id, number)
    if claimed is None:
        finish_if_done(job_id)
        return
    items = claimed.items()
    if claimed.chunk.only is not None:
        items = [items[offset] for offset in claimed.chunk.only]
    with _going_on(claimed) as stop, inside(job_id):
        outcome = _run(claimed, items, stop)
    for tries_left in reversed(range(TRIES)):
        try:
            if not complete(claimed, outcome, items):
                logger.warning("%s was refused: the claim had expired, and the chunk is someone else's.", claimed.chunk)
            return
        except (OperationalError, InterfaceError):
            connection.close()
            if not tries_left:
                raise
            time.sleep(PAUSE_SECONDS)


def _run(claimed: Claim, items: Sequence[Any], stop: Stop) -> Outcome:
    job, chunk = claimed.job, claimed.chunk
    if chunk.deaths >= MOST_DEATHS and (chunk.count == 1 or chunk.only is not None):
        error = f"ProcessDied: the process died {chunk.deaths} times while it ran this item, or saved it"
        return Outcome([None] * len(items), [Failed(number, error, "") for number in range(len(items))])
    started = time.perf_counter()
    try:
        call = compose(job.stages)
        for function in filter(None, (job.reducer, job.saver)):
            find(function)  # rather now than after the work
    except Exception as error:  # noqa: BLE001  (a task or function that is not there: every item says so)
        return Outcome([None] * len(items), [describe(number, error) for number in range(len(items))])
    if chunk.careful or job.item_timeout is not None:
        outcome = Forked(call, items, stop, job.threads, job.item_timeout).run()
    elif job.threads > 1:
        outcome = run_in_threads(call, items, stop, job.threads)
    else:
        outcome = run_here(call, items, stop)
    outcome.seconds = time.perf_counter() - started
    return outcome


@contextmanager
def _going_on(claimed: Claim) -> Iterator[Stop]:
    """While the block runs, renew the claim, and stop when the job is not to go on."""
    boxed = claimed.job.chunk_size is None and claimed.chunk.only is None
    stop = Stop(PATIENCE * claimed.job.chunk_seconds if boxed else None)

    def look() -> None:
        if not renew(claimed):
            stop.now.set()

    with beating(LOOK_SECONDS, look):
        yield stop
