"""Tasks and functions that tests make jobs of."""

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import shared_task

from handbell import Job, over, states
from handbell.common.claims import new_claim_token
from handbell.parallel.claim import ChunkClaim, claim_chunk
from handbell.parallel.executor import ChunkOutcome
from handbell.parallel.sweep import HAS_WORK
from handbell.parallel.work import work
from tasks_app.models import Entry, Score
from tests.servers import wait_for


@shared_task
def double(item: int) -> int:
    return item * 2


@shared_task
def plus(item: int, more: int, *, times: int = 1) -> int:
    return item + more * times


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


@shared_task
def pick(item: Any) -> Any:
    """Fails, kills, hangs, or gives back what JSON cannot hold, as the item says."""
    match item:
        case "raise":
            raise ValueError("no good\0\ud800")
        case "exit":
            raise SystemExit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(60)
        case "mute":
            raise Mute
        case "set":
            return {1}
        case "deep":
            nested: list[Any] = []
            for _ in range(100_000):
                nested = [nested]
            return nested
        case "nan":
            return math.nan
    return item


@shared_task
def slow(item: int) -> int:
    time.sleep(0.02)
    return item


@shared_task
def hold(item: int, folder: str) -> int:
    """Makes the file "begun" in `folder`, and waits for the file "go on"."""
    (Path(folder) / "begun").touch()
    wait_for((Path(folder) / "go on").exists, "the test lets it go on")
    return item


@shared_task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def add(numbers: list[int]) -> int:
    return sum(numbers)


def concatenate(texts: list[str]) -> str:
    return "".join(texts)


def store(results: list[int]) -> None:
    Score.objects.bulk_create(Score(item=item, value=item) for item in results)


@shared_task
def note(job_id: int, word: str = "") -> None:
    Entry.objects.create(title=f"{job_id} {word}")


@shared_task
def start_child(item: int) -> int:
    return over(range(item)).map(double).start(name="child").pk


def run_jobs() -> int:
    """Run every chunk that waits, as a worker does, with threads and subprocesses; how many there were."""
    done = 0
    waiting = Job.objects.filter(HAS_WORK, status__in=[states.QUEUED, states.RUNNING], paused=False)
    while (job := waiting.order_by("id").first()) is not None:
        work(job.pk, job.ring_token)
        done += 1
    return done


def claim_first_chunk() -> ChunkClaim:
    """The first chunk, of eight items, of a job with sixteen, as a worker has it that runs it."""
    claimed = claim_chunk(over(range(16)).map(double).start(chunk_size=8).pk, 0, new_claim_token())
    assert claimed is not None
    return claimed


def outcome_of(claimed: ChunkClaim) -> ChunkOutcome:
    """What comes of such a chunk."""
    return ChunkOutcome([item * 2 for item in claimed.items()], [], 0.1)
