"""What benchmarks/million.py runs inside the system it measures."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from celery.result import AsyncResult
from django.db import connection, connections

from benchmarks import peer
from handbell.models import Call
from tasks_app.tasks import fibonacci

THREADS = 10
QUEUES = ("high", "cpu", "io")
LARGEST = 20  # Fibonacci number
NUMBERS = [0, 1]
while len(NUMBERS) <= LARGEST:
    NUMBERS.append(NUMBERS[-1] + NUMBERS[-2])


def produce(kind: str, count: int, folder: str) -> dict[str, Any]:
    """Call from ten threads, one call after the other in each, and store the ids in files; the seconds that it took,
    and the memory of this process in MiB once a tenth, half and all is done.
    """
    done, memory = [0] * THREADS, []
    threads = [
        threading.Thread(target=_call, args=(kind, range(number, count, THREADS), Path(folder), done, number))
        for number in range(THREADS)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for part in (0.1, 0.5, 1.0):
        while sum(done) < part * count and any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
        memory.append(psutil.Process().memory_full_info().uss // 2**20)
    for thread in threads:
        thread.join()
    assert sum(done) == count
    return {"seconds": time.perf_counter() - started, "memory_mb": memory}


def _call(kind: str, numbers: range, folder: Path, done: list[int], thread: int) -> None:
    task: Any = fibonacci if kind == "handbell" else peer.fib
    with (folder / f"{kind}-{thread}").open("w") as file:
        for number in numbers:
            n = number % (LARGEST + 1)
            queue = QUEUES[number % len(QUEUES)] if kind == "handbell" else "peer"
            file.write(f"{n} {task.apply_async((n,), queue=queue).id}\n")
            done[thread] += 1
    connections.close_all()


def wait(kind: str, count: int) -> float:
    """The time, by this machine's clock, at which the last of the calls had ended."""
    state = "SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'"
    while True:
        if kind == "peer" or not Call.objects.exists():
            with connection.cursor() as cursor:
                cursor.execute(state)
                if cursor.fetchone()[0] >= count:
                    return time.time()
        time.sleep(0.5)


def fetch(kind: str, folder: str) -> dict[str, Any]:
    """Fetch every result by its id, in ten threads; the seconds, and how many were right."""
    right = [0] * THREADS
    app: Any = fibonacci.app if kind == "handbell" else peer.app

    def check(thread: int) -> None:
        for n, task_id in _ids(Path(folder) / f"{kind}-{thread}"):
            right[thread] += AsyncResult(task_id, app=app).get(timeout=60) == NUMBERS[n]
        connections.close_all()

    threads = [threading.Thread(target=check, args=(number,)) for number in range(THREADS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - started, "right": sum(right)}


def _ids(file: Path) -> Iterator[tuple[int, str]]:
    with file.open() as lines:
        for line in lines:
            n, task_id = line.split()
            yield int(n), task_id
    file.unlink()
