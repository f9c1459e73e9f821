"""What a user writes, with types: mypy and pyright must accept every line. It is read by them, not run."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import assert_type

from celery import shared_task
from celery.result import AsyncResult
from django.db import models

from handbell import (
    Celery,
    HandbellError,
    IsolatedTask,
    Job,
    Launch,
    Operation,
    Pipeline,
    Queue,
    SerialModel,
    SerialTask,
    delete_finished,
    isolated_task,
    lanes,
    launches,
    outside_lanes,
    over,
    serial_task,
    states,
)

app = Celery("mysite")
queue = Queue("mail", "threads", 8, "Messages to customers.")


class Counter(SerialModel):
    name: "models.CharField[str, str]" = models.CharField(primary_key=True, max_length=100)
    value: "models.BigIntegerField[int, int]" = models.BigIntegerField(default=0)


@serial_task(on=Counter, create=True)
def increment_value(counter: Counter, by: int = 1) -> int:
    counter.value += by
    return counter.value


@serial_task(key="report:{account_id}", external=True, on_failure="block")
def send_report(account_id: int, *, subject: str) -> str:
    return f"{subject} {account_id}"


@serial_task
def rebuild_index() -> None: ...


@serial_task(bind=True)
def say_who_i_am(self: SerialTask[..., str], greeting: str) -> str:
    return f"{greeting} {self.name}"


@isolated_task(timeout=30, memory_mb=512)
def download(url: str, retries: int = 0) -> dict[str, int]:
    return {url: retries}


@shared_task
async def fetch_length(url: str) -> int:
    return len(url)


@shared_task
def scrape_url(url: str) -> str:
    return url


@shared_task
def find_frequency(text: str, words: Sequence[str]) -> dict[str, int]:
    return {word: text.count(word) for word in words}


@shared_task
def aggregate_results(frequencies: Sequence[dict[str, int]]) -> dict[str, int]:
    return frequencies[0]


def serial(counter: Counter) -> None:
    assert_type(increment_value.delay("visits"), AsyncResult[int])
    assert_type(increment_value.delay("visits", 2), AsyncResult[int])
    assert_type(increment_value.delay(counter, by=2), AsyncResult[int])
    assert_type(increment_value.apply_async(("visits",), countdown=5, idempotency_key="one"), AsyncResult[int])
    assert_type(increment_value.delay("visits").get(timeout=5), int)
    assert_type(increment_value(counter, by=2), int)
    for result in increment_value.delay_many((name, 2) for name in ("visits", "clicks")):
        assert_type(result, AsyncResult[int])
    assert_type(send_report.delay(7, subject="March"), AsyncResult[str])
    assert_type(rebuild_index.delay(), AsyncResult[None])
    assert_type(say_who_i_am.delay("I am"), AsyncResult[str])
    task: SerialTask[..., int] = increment_value
    task.delay("visits")
    with outside_lanes():
        counter.save()
    lanes.pause(1)
    assert Operation.objects.filter(status=states.QUEUED).exists()


async def later() -> int:
    result = await increment_value.adelay("visits", by=3)
    return result.get()


def isolated() -> None:
    launch: Launch = download.launch("https://example.com", retries=2)
    assert_type(download.delay("https://example.com").get(), dict[str, int])
    assert_type(download.apply_async(("https://example.com",), time_limit=3), AsyncResult[dict[str, int]])
    for result in download.launch_many([("https://example.com", 2)]):
        assert_type(result, AsyncResult[dict[str, int]])
    task: IsolatedTask[..., dict[str, int]] = download
    task.launch("https://example.com")
    with suppress(HandbellError):
        launches.cancel(launch.pk)


def parallel(urls: Sequence[str], words: Sequence[str]) -> Job:
    fetched: Pipeline[str] = over(urls).map(scrape_url)
    lengths: Pipeline[int] = over(urls).map(fetch_length)
    lengths.start("io", threads=100)
    assert_type(fetched.map(find_frequency, words), Pipeline[dict[str, int]])
    job = over(urls).map(scrape_url).map(find_frequency, words=words).reduce(aggregate_results).start("io", threads=16)
    over(Counter.objects.all()).map(scrape_url).save(print).start()
    return job.wait(timeout=5)


def tidy() -> dict[str, int]:
    return delete_finished(datetime.now(UTC))
