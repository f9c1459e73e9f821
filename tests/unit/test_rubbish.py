"""Rubbish from callers: whatever is passed to whatever is public is taken, or refused in a sentence; nothing is
half-written, and the caller's transaction goes on.
"""

import math
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import current_app, shared_task
from django.db import connection, transaction
from django_celery_results.models import TaskResult
from kombu.exceptions import EncodeError, SerializerNotInstalled

from handbell import (
    HandbellError,
    Queue,
    delete_finished,
    isolated_task,
    kept_secret,
    lanes,
    launches,
    over,
    require_broker,
    serial_task,
    settings_from_environment,
    status,
)
from handbell.models import Block, Call, JobRow, Launch, Operation
from tasks_app.models import Counter

pytestmark = pytest.mark.django_db

CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


class Odd:
    """An object that answers nothing."""

    def __repr__(self) -> str:
        return "<odd>"


RUBBISH: dict[str, Any] = {
    "a number": 5,
    "a negative number": -7,
    "a large number": 10**40,
    "a fraction": 2.5,
    "NaN": math.nan,
    "infinity": math.inf,
    "an empty text": "",
    "a text": "abc",
    "NUL": "a\0b",
    "a lone surrogate": "a\ud800b",
    "a long text": "x" * 70_000,
    "bytes": b"\xff\x00",
    "a date": date(2026, 1, 1),
    "a moment without a zone": datetime(2026, 1, 1),  # noqa: DTZ001
    "a length of time": timedelta(days=10**8),
    "a list": [1, "a"],
    "a cycle": CYCLE,
    "a deep nest": DEEP,
    "a dict": {"a": 1},
    "a dict of numbers": {1: 2},
    "a set": {1, 2},
    "an object": Odd(),
    "a class": Odd,
    "a function": lambda: None,
    "true": True,
}


@shared_task
def take(value: Any = None, **named: Any) -> None:
    """Takes anything."""


@serial_task(name="tests.rubbish.take_in_order")
def take_in_order(value: Any = None) -> None:
    """Takes anything."""


@serial_task(name="tests.rubbish.take_by_key", key="key:{value}")
def take_by_key(value: Any) -> None:
    """Takes anything."""


@serial_task(on=Counter, name="tests.rubbish.take_row", create=True)
def take_row(counter: Counter, value: Any = None) -> None:
    """Takes anything."""


@isolated_task(timeout=5, name="tests.rubbish.take_apart")
def take_apart(value: Any = None) -> None:
    """Takes anything."""


def fold(values: list[Any]) -> Any:
    return values[0]


def options(task: Any, *names: str) -> dict[str, Callable[[Any], object]]:
    """For each of these options, a call with a value of it."""
    return {
        f"{task.name.rpartition('.')[2]}.apply_async({name}=…)": partial(with_option, task.apply_async, name)
        for name in names
    }


def start(**given: Any) -> object:
    return over(range(2)).map(take).start(**given)


def start_with(*args: Any, **kwargs: Any) -> object:
    return over(range(2)).map(take, *args, **kwargs).start()


def fails_after(items: list[Any]) -> Iterator[Any]:
    yield from items
    raise ValueError("The source cannot go on.")


def with_option(function: Callable[..., object], name: str, value: Any) -> object:
    return function(**{name: value})


def declared(decorator: Callable[..., Any], **given: Any) -> object:
    def function(value: Any = None) -> None: ...

    function.__name__ = f"declared_{len(current_app.tasks)}"
    return decorator(**given)(function)


def declare_serial(**given: Any) -> object:
    return declared(serial_task, **given)


def declare_isolated(**given: Any) -> object:
    return declared(isolated_task, **{"timeout": 5, **given})


def a_queue(**given: Any) -> object:
    return Queue(**{**QUEUE, **given})


JOB_OPTIONS = (
    "queue",
    "name",
    "priority",
    "chunk_size",
    "chunk_seconds",
    "threads",
    "item_timeout",
    "max_failures",
    "keep_results",
    "on_success",
    "on_failure",
    "on_complete",
)
QUEUE: dict[str, Any] = {"name": "q", "pool": "prefork", "concurrency": 1, "purpose": "For tests."}
CALLS: dict[str, Callable[[Any], object]] = {
    "take.delay(…)": take.delay,
    "take.delay(name=…)": lambda it: take.delay(named=it),
    **options(take, "args", "kwargs", "task_id", "countdown", "eta", "expires", "priority", "queue", "shadow"),
    **options(take, "time_limit", "soft_time_limit", "ignore_result", "serializer", "compression", "argsrepr"),
    "send_task(…)": current_app.send_task,
    "take_in_order.delay(…)": take_in_order.delay,
    "take_by_key.delay(…)": take_by_key.delay,
    "take_row.delay(…)": take_row.delay,
    "take_row.delay(key, …)": lambda it: take_row.delay("key", it),
    **options(take_in_order, "args", "kwargs", "task_id", "countdown", "eta", "idempotency_key", "priority"),
    "take_in_order.delay_many(…)": take_in_order.delay_many,
    "take_in_order.delay_many([…])": lambda it: take_in_order.delay_many([("good",), it]),
    "take_apart.launch(…)": take_apart.launch,
    "take_apart.launch_many(…)": take_apart.launch_many,
    "take_apart.launch_many([…])": lambda it: take_apart.launch_many([it]),
    **options(take_apart, "args", "kwargs", "task_id", "time_limit"),
    "over(…)": lambda it: over(it).map(take),
    "map(…)": lambda it: over(range(2)).map(it).start(),
    "map(task, …)": start_with,
    "map(task, name=…)": partial(with_option, start_with, "named"),
    "reduce(…)": lambda it: over(range(2)).map(take).reduce(it).start(),
    "save(…)": lambda it: over(range(2)).map(take).save(it).start(),
    **{f"start({name}=…)": partial(with_option, start, name) for name in JOB_OPTIONS},
    "on_complete=take.s(…)": lambda it: start(on_complete=take.s(named=it)),
    "result(…)": lambda it: over(range(2)).map(take).start().result(it),
    "wait(…)": lambda it: over(range(0)).map(take).start().wait(it),
    "extend(…)": lambda it: over(range(2)).map(take).start().extend(it),
    "lanes.pause(…)": lanes.pause,
    "lanes.skip(…)": lanes.skip,
    "lanes.retry_operation(…)": lanes.retry_operation,
    "lanes.cancel_operation(…)": lanes.cancel_operation,
    "launches.cancel(…)": launches.cancel,
    "status(…)": status,
    "delete_finished(…)": delete_finished,
    **{f"Queue({name}=…)": partial(with_option, a_queue, name) for name in QUEUE},
    "Queue(memory_mb=…)": lambda it: Queue(**QUEUE, memory_mb=it),
    "Queue(autoscale_from=…)": lambda it: Queue(**QUEUE, autoscale_from=it),
    **{
        f"serial_task({name}=…)": partial(with_option, declare_serial, name)
        for name in ("on", "key", "on_failure", "soft_time_limit", "time_limit", "name")
    },
    **{
        f"isolated_task({name}=…)": partial(with_option, declare_isolated, name)
        for name in ("timeout", "grace", "memory_mb", "name")
    },
}

#: What Python itself says of a value that nobody has looked at.
UNCHECKED = re.compile(
    r"has no (attribute|len)|not supported between|not (iterable|callable|subscriptable|hashable)|unhashable|"
    r"unsupported operand|expected .* instance|object cannot be|required, not|too (large|long) to convert|argument must"
    r"|no attribute|invalid literal|codec can't|^maximum recursion|out of range|must be str\b|type str"
)
REFUSALS = (HandbellError, TypeError, ValueError, EncodeError, SerializerNotInstalled, LookupError, TimeoutError)
SENTENCE = re.compile(r"^\S.{15,}", re.DOTALL)


def rows() -> list[int]:
    return [model._default_manager.count() for model in (Call, TaskResult, Operation, Launch, JobRow, Block)]


@pytest.fixture(autouse=True)
def declared_tasks_are_forgotten() -> Iterator[None]:
    before = set(current_app.tasks)
    yield
    for name in set(current_app.tasks) - before:
        del current_app.tasks[name]


@pytest.mark.parametrize("call", CALLS)
def test_rubbish_is_refused_in_a_sentence(call: str) -> None:
    unsaid = []
    for name, value in RUBBISH.items():
        with transaction.atomic():
            before = rows()
            try:
                CALLS[call](value)
            except (
                HandbellError,
                TypeError,
                ValueError,
                EncodeError,
                SerializerNotInstalled,
                LookupError,
                TimeoutError,
            ) as error:
                if UNCHECKED.search(str(error)) or not SENTENCE.search(str(error)):
                    unsaid.append(f"{name}: {type(error).__name__}: {str(error)[:150]}")
                elif rows() != before and call not in MAY_LEAVE_A_JOB:
                    unsaid.append(f"{name}: half of it was written")
            except Exception as error:
                unsaid.append(f"{name}: {type(error).__name__}: {str(error)[:150]}")
            with connection.cursor() as cursor:  # the caller's transaction goes on
                cursor.execute("SELECT 1")
    assert not unsaid, "\n".join(unsaid)


#: Each of these starts a job before it does something with it.
MAY_LEAVE_A_JOB = ("result(…)", "wait(…)", "extend(…)")


def test_a_source_that_raises_leaves_what_came_before() -> None:
    with pytest.raises(ValueError, match="cannot go on"):
        over(fails_after([1, 2])).map(take).start()
    job = JobRow.objects.get()
    assert (job.source_state, job.total) == (JobRow.INTERRUPTED, 2)


@pytest.mark.parametrize("many", [take_in_order.delay_many, take_apart.launch_many])
def test_calls_that_raise_half_way_leave_nothing(many: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match="cannot go on"):
        many(fails_after([(1,), (2,)]))
    assert not any(rows())


def test_other_rubbish(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="seconds is a whole number"):
        require_broker("soon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embedded null"):
        kept_secret("a\0b")
    assert kept_secret(str(tmp_path / "secret")) == kept_secret(tmp_path / "secret")
    assert settings_from_environment({"HANDBELL_LEASE_SECONDS": "a\0"}) == {"HANDBELL_LEASE_SECONDS": "a\0"}
