"""Tasks of Django's own framework: of Django 6, or of the package django-tasks on Django 5.2."""

import asyncio
import datetime
from typing import Any

from handbell.tasks import task
from tasks_app.models import Counter, Score

declare: Any = task  # its types leave options out


@declare
def add(a: int, b: int = 1) -> int:
    Score.objects.create(item=a, value=b)
    return a + b


@declare(priority=50, queue_name="cpu", takes_context=True)
def attempt(context: Any, note: str) -> list[Any]:
    return [context.attempt, context.task_result.id, note]


@declare
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    score = await Score.objects.acreate(item=a, value=b)
    return a + score.value


@declare
def fail(text: str) -> None:
    raise ValueError(text)


@declare(max_attempts=3, takes_context=True)
def third_time(context: Any) -> int:
    if context.attempt < 3:
        raise ValueError(f"attempt {context.attempt}")
    return context.attempt


@declare(max_attempts=2)
def never() -> None:
    raise LookupError("not this time either")


@declare(timeout=1)
def endless() -> None:
    while True:
        pass


@declare(lane="tasks_app.counter:{name}")
def increment_in_lane(name: str, by: int = 1) -> int:
    counter, _ = Counter.objects.get_or_create(name=name)
    counter.value += by
    counter.save()
    return counter.value


@declare
def not_json() -> object:
    return object()


@declare
def echo(value: Any) -> Any:
    return value


@declare(max_attempts=2)
def leave() -> None:
    raise SystemExit("as some scripts do")


@declare
def moment() -> Any:
    return datetime.datetime.now(datetime.UTC)


@declare(timeout=1, max_attempts=2)
async def wait_for_ever() -> None:
    await asyncio.sleep(60)
