"""Taskiq on a Redis list, with its results in Redis: https://taskiq-python.github.io/"""

import asyncio
import os
import time
from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

url = os.environ["REDIS_URL"]
broker = ListQueueBroker(url=url).with_result_backend(RedisAsyncResultBackend(redis_url=url, keep_results=False))
loop = asyncio.new_event_loop()


@broker.task
async def nothing(number: int) -> list[float]:
    return [number, time.time()]


def call(number: int) -> Any:
    return loop.run_until_complete(nothing.kiq(number))


def result(handle: Any) -> list[float]:
    return loop.run_until_complete(handle.wait_result(check_interval=0.002, timeout=600)).return_value
