"""The work that goes on while faults are injected: tasks of every kind, which leave in a history when they began and
when they returned. Their effects in the database are counters and entries.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from celery import Task, shared_task

from handbell import isolated_task, serial_task
from tasks_app.models import Counter, Entry
from tests.faults.history import History, own_history


@cache
def history() -> History:
    return own_history()


@contextmanager
def recorded(call: str, **detail: Any) -> Iterator[None]:
    history().write("begun", call=call, parent=os.getppid(), **detail)
    yield
    history().write("returned", call=call)


# --- Plain ------------------------------------------------------------------------------------------------------------


@shared_task(queue="cpu")
def work(call: str, seconds: float) -> list[Any]:
    """It answers with the process that it ran in."""
    with recorded(call):
        time.sleep(seconds)
    return [call, os.getpid()]


@shared_task(queue="cpu", max_crashes=1)  # type: ignore[call-overload]
def begin_once(call: str, seconds: float) -> str:
    with recorded(call):
        time.sleep(seconds)
    return call


@shared_task(queue="cpu", bind=True, max_retries=3)
def retried(self: Task[..., Any], call: str) -> str:
    """Asks once to be run again."""
    with recorded(call, retries=self.request.retries):
        if not self.request.retries:
            raise self.retry(countdown=0)
    return call


@shared_task(queue="cpu")
def step(number: int, call: str) -> int:
    with recorded(call):
        return number + 1


@shared_task(queue="cpu")
def collect(numbers: Sequence[int], call: str) -> int:
    with recorded(call):
        return sum(numbers)


@shared_task(queue="cpu", bind=True)
def tick(self: Task[..., Any]) -> None:
    with recorded(str(self.request.id), kind="periodic"):
        pass


# --- Serial -----------------------------------------------------------------------------------------------------------


@serial_task(key="list:{name}")
def append(name: str, call: str) -> int:
    """Add the call to a list; how many are in it then."""
    Entry.objects.create(title=name, body=call)
    return Entry.objects.filter(title=name).count()


@serial_task(on=Counter, create=True)
def add(counter: Counter, by: int) -> int:
    counter.value += by
    return counter.value


@serial_task(on=Counter, create=True)
def swap(register: Counter, value: int) -> int:
    """Write a value; the one that was there."""
    register.value, former = value, register.value
    return former


@serial_task(on=Counter, create=True)
def look(counter: Counter) -> int:
    return counter.value


@serial_task(key="external:{name}", external=True)
def notify(name: str, call: str) -> str:
    with recorded(call):
        time.sleep(0.03)
    return call


# --- Jobs -------------------------------------------------------------------------------------------------------------


def image(item: int) -> int:
    """What a job makes of an item."""
    return item * 3 + 1


@shared_task(queue="cpu")
def work_on_item(item: int, call: str) -> list[Any]:
    time.sleep(0.002)
    return [call, image(item)]


def save_items(results: Sequence[Sequence[Any]]) -> None:
    Entry.objects.bulk_create(Entry(title=f"saved:{call}", body=str(value)) for call, value in results)


def add_up(results: Sequence[Sequence[Any]]) -> list[Any]:
    return [results[0][0], sum(value for _, value in results)]


@shared_task(queue="cpu")
def job_is_over(job: int, call: str) -> None:
    with recorded(f"{call}/over"):
        pass


# --- Launches ---------------------------------------------------------------------------------------------------------


@isolated_task(timeout=20)
def work_apart(call: str, seconds: float) -> str:
    with recorded(call):
        time.sleep(seconds)
    return call
