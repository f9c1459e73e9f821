"""Plain tasks that behave, and others that do not; a worker takes them with `--include=tests.plain`."""

import asyncio
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, current_app, group, shared_task
from celery.result import AsyncResult
from django.db import connection, transaction
from django_celery_results.models import TaskResult

from handbell.models import Call
from handbell.plain.message import Message
from tasks_app.models import Entry, Score

SECONDS = 100  # what anything may take on a machine that is busy with something else
WORKER = ("-Q", "cpu", "-c", "2", "--include=tests.plain")  # the options of a worker for them


def note(path: str, line: object) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


def lines(path: str | Path) -> list[str]:
    return Path(path).read_text().split() if Path(path).exists() else []


def until(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
    return found


# --- What tests ask of a system, each in a process of its own (`system.call`) ----------------------------------------


def call_take(seconds: float, path: str = "", value: Any = None, task_id: str | None = None) -> str:
    """Call `take`; the id."""
    return take.apply_async((seconds, path, value), task_id=task_id).id


def call_take_many(seconds: Sequence[float], path: str = "") -> None:
    """Call `take` for each of these times, in one transaction; each leaves lines with its place."""
    with transaction.atomic():
        group(take.s(time, path, number) for number, time in enumerate(seconds)).delay()


def sum_of(x: int, y: int) -> int:
    """Call `add` and wait: that the system works."""
    return add.delay(x, y).get(timeout=SECONDS)


def result_of(task_id: str) -> Any:
    return AsyncResult(task_id).get(timeout=SECONDS)


def state_of(task_id: str) -> str:
    return AsyncResult(task_id).state


def results_with(status: str) -> int:
    """How many tasks are in this state."""
    return TaskResult.objects.filter(status=status).count()


def wait_for_successes(count: int) -> None:
    until(lambda: results_with("SUCCESS") == count)


def calls_left() -> int:
    return Call.objects.count()


def wait_for_no_calls() -> None:
    until(lambda: not Call.objects.exists())


def doubles(task_ids: Sequence[str], times: int = 1) -> Callable[[], None]:
    """Publishes messages of these calls, as a broker may deliver them a second time, after they have ended, too."""
    rows = Call.objects.filter(task_id__in=task_ids)
    messages = [Message.from_json(text) for text in rows.values_list("message", flat=True)]

    def publish() -> None:
        with current_app.producer_pool.acquire(block=True) as producer:
            for message in messages * times:
                message.publish(current_app, producer)

    return publish


# --- The tasks --------------------------------------------------------------------------------------------------------


@shared_task(queue="cpu")
def frozen_objects() -> int:
    """How many objects the garbage collector leaves alone in this process."""
    return gc.get_freeze_count()


@shared_task(queue="cpu")
def add(x: int, y: int) -> int:
    return x + y


@shared_task(queue="cpu", shares_claims=False)  # type: ignore[call-overload]
def add_alone(x: int, y: int) -> int:
    return x + y


@shared_task(queue="cpu")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task(queue="cpu", ignore_result=True)
def bare(path: str) -> None:
    note(path, "ran")


@shared_task(queue="cpu")
def take(seconds: float, path: str = "", value: Any = None) -> Any:
    """Leaves a line when it begins and another when it ends."""
    if path:
        note(path, f"began-{value}")
    time.sleep(seconds)
    if path:
        note(path, f"ended-{value}")
    return value


@shared_task(queue="cpu")
def fail(text: str = "no") -> None:
    raise ValueError(text)


@shared_task(queue="cpu", bind=True, max_retries=3)
def third_time(self: Task[..., Any], path: str, countdown: float = 0) -> int:
    note(path, self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=countdown, exc=ValueError("not yet"))
    return int(self.request.retries)


@shared_task(queue="cpu", bind=True)
def replaces_itself(self: Task[..., Any], x: int) -> Any:
    return self.replace(add.s(x, x))


@shared_task(queue="cpu")
def die(path: str, times: int = 1, number: int = signal.SIGKILL) -> str:
    """Kills its own process, the first `times` times."""
    note(path, os.getpid())
    if len(lines(path)) <= times:
        os.kill(os.getpid(), number)
        time.sleep(60)
    return "alive"


@shared_task(queue="cpu", max_crashes=1)  # type: ignore[call-overload]
def die_once_and_for_all(path: str) -> None:
    note(path, os.getpid())
    os._exit(3)


@shared_task(queue="cpu")
def leave(path: str) -> None:
    note(path, "ran")
    sys.exit(0)


@shared_task(queue="cpu")
def kill_the_worker(path: str) -> None:
    note(path, os.getppid())
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@shared_task(queue="cpu", time_limit=1)
def too_long(path: str) -> None:
    note(path, "ran")
    time.sleep(60)


@shared_task(queue="cpu", soft_time_limit=1, time_limit=20)
def softly() -> None:
    """Interrupted in the middle of a transaction."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        time.sleep(60)


@shared_task(queue="cpu", soft_time_limit=1, time_limit=20)
async def softly_awaiting(path: str) -> None:
    """Cleans up when it is cancelled, with the database."""
    note(path, "began")
    try:
        await asyncio.sleep(60)
    finally:
        score = await Score.objects.acreate(item=4711, value=1)
        await asyncio.sleep(0)
        note(path, str(await Score.objects.filter(pk=score.pk).acount()))


@shared_task(queue="cpu", soft_time_limit=1, time_limit=20)
async def undeterred() -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "cancelled"
    return "slept"


@shared_task(queue="cpu")
def interrupted() -> None:
    """As by a soft time limit."""
    raise SoftTimeLimitExceeded


@shared_task(queue="cpu")
def on_error(request: Any, error: Any, traceback: Any) -> None:
    note(error.args[0] if error.args and str(error.args[0]).startswith("/") else request.args[0], "errback")


@shared_task(queue="cpu")
def backend_process() -> int:
    """The server's process for this connection: the same as long as the connection is kept."""
    if connection.vendor == "sqlite":
        return id(connection.connection)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@shared_task(queue="cpu")
def break_the_connection() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT no_such_column")


@shared_task(queue="cpu", bind=True)
def halfway(self: Task[..., Any], seconds: float) -> str:
    self.update_state(state="HALFWAY", meta={"done": 0.5})
    time.sleep(seconds)
    return "done"


@shared_task(queue="cpu", bind=True)
def says_started(self: Task[..., Any]) -> list[Any]:
    """Uses Celery's own word for a state of its own."""
    self.update_state(state="STARTED", meta={"done": 0.5})
    result = self.AsyncResult(str(self.request.id))
    return [result.state, result.info]


@shared_task(queue="cpu")
def long_at_first(path: str) -> str:
    """The first time, it takes longer than anybody waits."""
    note(path, os.getpid())
    if len(lines(path)) == 1:
        time.sleep(600)
    return "done"


_grown: list[bytes] = []


@shared_task(queue="cpu")
def grow(megabytes: int, path: str) -> int:
    """Holds on to memory; the process that does."""
    _grown.append(os.urandom(1024) * 1024 * megabytes)
    note(path, os.getpid())
    return os.getpid()


@shared_task(queue="cpu")
def quick(x: int, y: int = 1) -> int:
    return x + y


@shared_task(queue="cpu", bind=True)
def sometimes(self: Task[..., Any], number: int) -> int:
    """Every third one raises, every other third asks to be run again."""
    if number % 3 == 1:
        raise ValueError(number)
    if number % 3 == 2 and not self.request.retries:
        raise self.retry(countdown=0)
    return number


@shared_task(queue="cpu")
def write_entry(database: str, title: str) -> None:
    Entry.objects.using(database).create(title=title)


@shared_task(queue="cpu")
def hold(number: int, path: str) -> int:
    """Number 0 takes until there is a file "open" beside the file that is written, or for ever."""
    if path:
        note(path, number)
    while number == 0 and not (Path(path).parent / "open").exists():
        time.sleep(0.02)
    return number


@shared_task(queue="cpu")
def hang_in_c(path: str) -> None:
    """In one call of a function that keeps the interpreter's lock."""
    note(path, "hangs")
    re.match("(a+)+$", "a" * 60 + "b")


@shared_task(queue="cpu")
def poisonous(number: int, path: str) -> int:
    """Number 7 kills its process."""
    note(path, number)
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return number
