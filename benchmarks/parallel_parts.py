"""The parts of the parallel benchmarks that run inside a Django process of the system that is measured."""

import multiprocessing
import random
import time
from typing import Any

from celery import chord, group, shared_task
from django.db import connection
from django.db.models import Max, Min
from django_celery_results.models import TaskResult

from benchmarks import peer
from handbell import Job, over
from tasks_app.tasks import fibonacci

fib = fibonacci.run


@shared_task
def fib_of(item: int, n: int) -> int:
    return int(fib(n))


@shared_task
def skewed(item: int) -> int:
    """fib(5) to fib(27), small ones far more often, so that the largest come at random and cost the most."""
    return int(fib(skew(item)))


@shared_task
def nap(item: int) -> int:
    time.sleep(0.01)
    return item


def skew(item: int) -> int:
    return 5 + int(22 * random.Random(item).random() ** 3)


def add(numbers: list[int]) -> int:
    return sum(numbers)


def clear() -> None:
    Job.objects.all().delete()
    TaskResult.objects.all().delete()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def bare(n: int, count: int) -> float:
    """Seconds for `count` calls in a bare loop, in one process."""
    started = time.perf_counter()
    for _ in range(count):
        fib(n)
    return time.perf_counter() - started


def bare_skewed(count: int) -> float:
    numbers = [skew(item) for item in range(count)]
    started = time.perf_counter()
    for n in numbers:
        fib(n)
    return time.perf_counter() - started


def _one(n: int) -> int:
    return int(fib(n))


def pool(n: int, count: int, chunk: int) -> dict[str, Any]:
    """multiprocessing.Pool.imap_unordered on two processes; nothing is kept."""
    with multiprocessing.get_context("fork").Pool(2) as processes:
        started = time.perf_counter()
        total = sum(processes.imap_unordered(_one, (n for _ in range(count)), chunksize=chunk))
        return {"seconds": time.perf_counter() - started, "exact": total == count * fib(n)}


def with_joblib(n: int, count: int) -> dict[str, Any]:
    """joblib's own batching on two processes; the results come back as a list."""
    import joblib  # type: ignore[import-untyped]  # noqa: PLC0415

    run = joblib.Parallel(n_jobs=2, backend="multiprocessing")
    run(joblib.delayed(_one)(5) for _ in range(100))  # its processes start
    started = time.perf_counter()
    results = run(joblib.delayed(_one)(n) for _ in range(count))
    return {"seconds": time.perf_counter() - started, "exact": sum(results) == count * fib(n)}


def job(kind: str, count: int, n: int = 0, **options: Any) -> dict[str, Any]:
    """Start a job, wait for it, and read every result again; `start` is what the caller waited."""
    started = time.perf_counter()
    match kind:
        case "skewed":
            pipeline = over(range(count)).map(skewed)
        case "nap":
            pipeline = over(range(count)).map(nap)
        case "reduce":
            pipeline = over(range(count)).map(fib_of, n).reduce(add)
        case _:
            pipeline = over(range(count)).map(fib_of, n)
    began = pipeline.start("cpu", **options)
    start = time.perf_counter() - started
    began.wait(3600)
    seconds = time.perf_counter() - started
    if kind == "skewed":
        exact = list(began.results()) == [fib(skew(item)) for item in range(count)]
    elif kind == "nap":
        exact = list(began.results()) == list(range(count))
    elif kind == "reduce":
        exact = began.value == count * fib(n)
    else:
        expected, number = fib(n), 0
        exact = True
        for result in began.results():
            exact = exact and result == expected
            number += 1
        exact = exact and number == count
    spent = [it or 0.0 for it in began.chunks.values_list("seconds", flat=True)]
    return {
        "start": start,
        "seconds": seconds,
        "exact": exact and began.status == "succeeded",
        "chunks": len(spent),
        "work": sum(spent),
    }


def peer_fib(n: int, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        peer.fib.delay(n)
    return time.perf_counter() - started


def peer_chunks(n: int, count: int, chunk: int) -> None:
    peer.fib.chunks(((n,) for _ in range(count)), chunk).group().apply_async(queue="peer")


def peer_outcome(n: int, count: int, results: int) -> dict[str, Any]:
    """From the first start or result to the last result."""
    rows = TaskResult.objects.filter(status="SUCCESS")
    found = rows.aggregate(first=Min("date_created"), last=Max("date_done"))
    return {"seconds": (found["last"] - found["first"]).total_seconds(), "exact": rows.count() == results}


def peer_done() -> int:
    return TaskResult.objects.filter(status="SUCCESS").count()


def peer_chord(count: int) -> dict[str, Any]:
    """A chord of `count` members, summed by its body; from the call to the sum."""
    started = time.perf_counter()
    result = chord(group(peer.fib.s(5) for _ in range(count)), peer.add.s())()
    total = result.get(timeout=3600, interval=0.05)
    return {"seconds": time.perf_counter() - started, "exact": total == count * fib(5)}


def start_times(ids: int) -> dict[str, float]:
    """Seconds until `start` returns: the median of ten ranges of a million, and one stream of ids."""
    times = []
    for _ in range(11):
        started = time.perf_counter()
        began = over(range(1_000_000)).map(fib_of, 5).start("cpu")
        times.append(time.perf_counter() - started)
        began.cancel()
    started = time.perf_counter()
    began = over(iter(range(ids))).map(fib_of, 1).start("cpu")
    stream = time.perf_counter() - started
    began.cancel()
    return {"range": sorted(times[1:])[5], "stream": stream}


def stream(count: int) -> int:
    """Stream `count` ids into a job; the producer's memory at its largest, in MiB."""
    import resource  # noqa: PLC0415

    over(iter(range(count))).map(fib_of, 1).start("cpu").wait(3600)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
