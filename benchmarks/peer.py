"""The peer: plain Celery, a task that increments a row, with results in the ORM, and nothing of Handbell but the
address of its embedded broker.

`PEER_TUNED=yes` is Celery at its best: connections kept, 64 messages prefetched, events off.
"""

import os
import time

from celery import Celery, group

from handbell.embedded.broker import embedded_broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# Not the current app: what imports this module goes on with Handbell's.
_broker_url = os.environ.get("CELERY_BROKER_URL") or embedded_broker().url
app = Celery("peer", broker=_broker_url, backend="django-db", set_as_current=False)
app.conf.update(
    task_default_queue="peer",
    task_ignore_result=False,
    result_extended=False,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
if os.environ.get("PEER_TUNED"):
    app.conf.update(worker_prefetch_multiplier=64, worker_send_task_events=False, task_send_sent_event=False)
    app.conf["CELERY_DB_REUSE_MAX"] = 1_000_000


@app.task(name="benchmarks.peer.increment")
def increment(name: str) -> int:
    from tasks_app.models import PlainCounter  # noqa: PLC0415  (needs Django to be set up)

    counter, _ = PlainCounter.objects.get_or_create(name=name)
    counter.value += 1
    counter.save()
    return counter.value


@app.task(name="benchmarks.peer.fib")
def fib(n: int) -> int:
    from tasks_app.tasks import fibonacci  # noqa: PLC0415

    return int(fibonacci.run(n))


@app.task(name="benchmarks.peer.add")
def add(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="benchmarks.peer.nothing")
def nothing(value: int = 0) -> int:
    return value


def enqueue_groups(count: int) -> float:
    """Seconds for so many calls, in groups of a thousand."""
    started = time.perf_counter()
    for first in range(0, count, 1_000):
        group(nothing.s(number) for number in range(first, min(first + 1_000, count))).apply_async()
    return time.perf_counter() - started


def purge() -> int:
    """Take back what waits."""
    return int(app.control.purge())


def enqueue(count: int) -> float:
    """Seconds for so many calls of a task that does nothing, one after the other."""
    started = time.perf_counter()
    for number in range(count):
        nothing.delay(number)
    return time.perf_counter() - started
