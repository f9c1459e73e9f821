"""Huey on Redis: https://huey.readthedocs.io/en/latest/consumer.html"""

import os
import time
from typing import Any

from huey import RedisHuey

huey = RedisHuey("benchmark", url=os.environ["REDIS_URL"])


@huey.task()
def nothing(number: int) -> list[float]:
    return [number, time.time()]


def call(number: int) -> Any:
    return nothing(number)


def result(handle: Any) -> list[float]:
    return handle.get(blocking=True, timeout=600, backoff=1, max_delay=0.005)
