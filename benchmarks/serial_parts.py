"""The parts of the serial benchmark that run inside a Django process of the system that is measured."""

import multiprocessing
import random
import resource
import threading
import time
from typing import Any

from django.db import connection, connections
from django.db.models import F, Max, Min
from django_celery_results.models import TaskResult

from benchmarks import peer
from handbell import serial_task
from handbell.models import Operation
from tasks_app.models import Counter, PlainCounter
from tasks_app.tasks import increment_value


@serial_task(key="plain:{name}")
def increment_freely(name: str) -> int:
    """A free function: get, change, save."""
    counter = PlainCounter.objects.get(name=name)
    counter.value += 1
    counter.save()
    return counter.value


def clear() -> None:
    """Empty tables, so that one measurement does not carry the next one's rows."""
    Operation.objects.all().delete()
    TaskResult.objects.all().delete()
    PlainCounter.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tasks_app_counter")
        if connection.vendor == "postgresql":
            cursor.execute("VACUUM ANALYZE")


def prefill(count: int, keys: int) -> float:
    """Enqueue `count` increments over `keys` counters in bulk; the seconds it took."""
    started = time.perf_counter()
    increment_value.delay_many((f"key-{i % keys}",) for i in range(count))
    return time.perf_counter() - started


def prefill_and_weigh(count: int) -> int:
    """The most memory that this process has used after enqueueing `count` increments, in MiB."""
    prefill(count, 1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def prefill_free(count: int) -> float:
    PlainCounter.objects.create(name="free")
    started = time.perf_counter()
    increment_freely.delay_many(("free",) for _ in range(count))
    return time.perf_counter() - started


def prefill_peer(count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        peer.increment.delay("peer")
    return time.perf_counter() - started


def succeeded() -> int:
    return Operation.objects.filter(status="succeeded").count()


def lane_outcome(keys: int, model: str = "lane") -> dict[str, Any]:
    """From the first drain's beginning to the last one's end, and whether each counter is exactly right."""
    found = Operation.objects.aggregate(first=Min("started_at"), last=Max("finished_at"), called=Min("enqueued_at"))
    count = Operation.objects.count()
    if model == "lane":
        values = list(Counter.objects.values_list("value", flat=True))
        versions = list(Counter.objects.values_list("version", flat=True))
        exact = sum(values) == count and versions == values and len(values) == keys
    else:
        exact = PlainCounter.objects.get(name="free").value == count
    done = Operation.objects.filter(status="succeeded").values_list("result", flat=True)
    results = sorted(int(result or 0) for result in done)
    if keys == 1:
        exact = exact and results == list(range(1, count + 1))
    return {
        "seconds": (found["last"] - found["first"]).total_seconds(),
        "since_call": (found["last"] - found["called"]).total_seconds(),
        "exact": exact and len(results) == count,
    }


def peer_outcome() -> dict[str, Any]:
    """From the first result to the last; the first task itself is left out of the count."""
    found = TaskResult.objects.filter(status="SUCCESS").aggregate(first=Min("date_done"), last=Max("date_done"))
    value = PlainCounter.objects.get(name="peer").value
    return {
        "seconds": (found["last"] - found["first"]).total_seconds(),
        "exact": value == TaskResult.objects.filter(status="SUCCESS").count(),
    }


def f_updates(count: int, threads: int) -> dict[str, Any]:
    """UPDATE … SET value = value + 1 through the ORM, from several threads."""
    PlainCounter.objects.create(name="f")

    def work() -> None:
        for _ in range(count // threads):
            PlainCounter.objects.filter(name="f").update(value=F("value") + 1)
        connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "exact": PlainCounter.objects.get(name="f").value == count // threads * threads}


def produce(kind: str, count: int, producers: int, keys: int) -> float:
    """Call `delay` one by one, from several processes at once; the seconds until the last call returned."""
    connections.close_all()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_produce, args=(kind, count // producers, keys)) for _ in range(producers)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started


def _produce(kind: str, count: int, keys: int) -> None:
    for number in range(count):
        if kind == "lane":
            increment_value.delay(f"key-{number % keys}")
        else:
            peer.increment.delay("peer")
    connections.close_all()


def offer(rate: int, seconds: float) -> dict[str, float]:
    """Offer `rate` calls a second, evenly; from call to commit in milliseconds, by the database's own commit time."""
    calls: dict[str, float] = {}
    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = started + number / rate
        while (ahead := due - time.perf_counter()) > 0:
            time.sleep(ahead)
        called = time.time()
        calls[increment_value.delay(f"key-{random.randrange(100)}").id] = called
    deadline = time.monotonic() + 30
    while succeeded() < len(calls) and time.monotonic() < deadline:
        time.sleep(0.1)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT task_id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM handbell_operation "
            "WHERE status = 'succeeded'"
        )
        waits = sorted(1000 * (float(committed) - calls[task_id]) for task_id, committed in cursor.fetchall())
    return {
        "calls": len(calls),
        "committed": len(waits),
        "p50": round(waits[len(waits) // 2], 2),
        "p99": round(waits[int(len(waits) * 0.99)], 2),
    }
