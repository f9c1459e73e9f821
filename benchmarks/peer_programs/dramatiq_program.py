"""Dramatiq on Redis, with its results there: https://dramatiq.io/cookbook.html#results"""

import os
import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["REDIS_URL"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def nothing(number: int) -> list[float]:
    return [number, time.time()]


def call(number: int) -> Any:
    return nothing.send(number)


def result(handle: Any) -> list[float]:
    return handle.get_result(block=True, timeout=600_000)
