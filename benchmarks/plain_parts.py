"""What benchmarks/plain.py and benchmarks/latency.py run inside the systems they measure."""

import time
from collections.abc import Callable
from typing import Any

from celery import current_app, group, shared_task
from django.db import connection, transaction
from django.db.models import Max, Min
from django_celery_results.models import TaskResult

from handbell import Job, bulk, over
from handbell.models import Call
from tasks_app.queues import CPU
from tasks_app.tasks import fibonacci


@shared_task(queue="cpu")
def nothing(value: int = 0) -> int:
    return value


alone: Any = shared_task(nothing.run, name="benchmarks.plain_parts.alone", queue="cpu", shares_claims=False)  # type: ignore[call-overload]


@shared_task(queue="cpu")
def since_call(called: float) -> float:
    """Seconds since a moment, by the clock of this machine."""
    time.sleep(0.001)
    return time.time() - called


@shared_task(queue="cpu")
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@shared_task(queue="high")
def now() -> float:
    """When it began, by the clock of this machine."""
    return time.time()


def clear() -> None:
    for model in (Call, TaskResult, Job):
        model.objects.all().delete()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def enqueue(count: int, task: str = "nothing") -> float:
    """Seconds for so many calls, one after the other."""
    clear()
    started = time.perf_counter()
    for number in range(count):
        globals()[task].delay(number)
    return time.perf_counter() - started


def call_each(count: int) -> dict[str, Any]:
    """One after the other, each committed by itself."""
    return _timed(count, lambda: [nothing.delay(number) for number in range(count)])


def call_in_hundreds(count: int) -> dict[str, Any]:
    """A hundred in each transaction, its commit included."""

    def call() -> None:
        for first in range(0, count, 100):
            with transaction.atomic():
                for number in range(first, first + 100):
                    nothing.delay(number)

    return _timed(count, call)


def call_in_bulk(count: int) -> dict[str, Any]:
    """A loop of a thousand in each `bulk` block."""

    def call() -> None:
        for first in range(0, count, 1_000):
            with bulk():
                for number in range(first, first + 1_000):
                    nothing.delay(number)

    return _timed(count, call)


def call_groups(count: int) -> dict[str, Any]:
    """Groups of a thousand."""

    def call() -> None:
        for first in range(0, count, 1_000):
            group(nothing.s(number) for number in range(first, first + 1_000)).apply_async()

    return _timed(count, call)


def _timed(count: int, call: Callable[[], object]) -> dict[str, Any]:
    """How many seconds it took to make these calls, and whether each of them is recorded once."""
    nothing.delay(0)  # what is set up with the first call
    clear()
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    numbers = sorted(TaskResult.objects.values_list("task_args", flat=True))
    exact = numbers == sorted(f'"({number},)"' for number in range(count)) and Call.objects.count() == count
    purge()
    return {"seconds": seconds, "exact": exact}


def mixed(slow_seconds: float, rounds: int) -> list[float]:
    """Milliseconds from each quick call to its start, while one process of two runs a slow call: some are made together
    with that, and the others one after the other while it runs.
    """
    since_call.delay(time.time()).get(timeout=30)
    results = []
    for _ in range(rounds):
        with bulk():
            results += [since_call.delay(time.time()) for _ in range(10)]
            slow = sleep.delay(slow_seconds)
            results += [since_call.delay(time.time()) for _ in range(10)]
        while not slow.ready():
            results.append(since_call.delay(time.time()))
            time.sleep(0.05)
    return [result.get(timeout=60) * 1000 for result in results]


def done() -> int:
    """How many have ended; by SQL, so that asking costs the others nothing."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'")
        return int(cursor.fetchone()[0])


def outcome(count: int) -> dict[str, Any]:
    """From the first start, or first result, to the last result; each of them is looked at."""
    deadline = time.monotonic() + 600
    while done() < count and time.monotonic() < deadline:
        time.sleep(0.25)
    rows = TaskResult.objects.filter(status="SUCCESS")
    found = rows.aggregate(started=Min("date_started"), created=Min("date_created"), last=Max("date_done"))
    first = found["started"] or found["created"]
    values = sorted(int(result) for result in rows.values_list("result", flat=True))
    exact = values == list(range(count)) and not Call.objects.exists()
    return {"seconds": (found["last"] - first).total_seconds(), "exact": exact}


def idle(count: int) -> list[float]:
    """Milliseconds from each call to its result in the caller's hands, with nothing else to do."""
    nothing.delay().get(timeout=30)
    times = []
    for number in range(count):
        started = time.perf_counter()
        assert nothing.delay(number).get(timeout=30) == number
        times.append((time.perf_counter() - started) * 1000)
        time.sleep(0.02)
    return times


def occupy(tasks: int, items: int) -> None:
    """Keep both processes of `cpu` busy: with Fibonacci numbers, one message each, and with a job behind them."""
    with transaction.atomic():
        group(fibonacci.s(25).set(queue=CPU.name) for _ in range(tasks)).delay()
    over(range(items)).map(fibonacci).start(CPU.name)


def busy(count: int) -> list[float]:
    """Milliseconds from each call to the beginning of its task on `high`."""
    now.delay().get(timeout=30)
    times = []
    for _ in range(count):
        called = time.time()
        times.append((now.delay().get(timeout=30) - called) * 1000)
        time.sleep(0.02)
    return times


def still_busy() -> bool:
    """Whether there is still work for `cpu`."""
    return Job.objects.filter(finished_at=None).exists()


def purge() -> int:
    """Take back what waits in queue `cpu`."""
    clear()
    return int(current_app.control.purge())
