"""What benchmarks/plain.py and benchmarks/latency.py run inside the systems they measure."""

import time
from typing import Any

from celery import current_app, group, shared_task
from django.db import connection, transaction
from django.db.models import Max, Min
from django_celery_results.models import TaskResult

from handbell import Job, over
from handbell.models import Call
from tasks_app.queues import CPU
from tasks_app.tasks import fibonacci


@shared_task(queue="cpu")
def nothing(value: int = 0) -> int:
    return value


alone: Any = shared_task(nothing.run, name="benchmarks.plain_parts.alone", queue="cpu", shares_claims=False)  # type: ignore[call-overload]


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
