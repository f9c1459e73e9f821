"""Celery on Redis, with its results there, tuned: 64 messages prefetched, events off."""

import os
import time
from typing import Any

from celery import Celery

url = os.environ["REDIS_URL"]
app = Celery("benchmark", broker=url, backend=url)
app.conf.update(worker_prefetch_multiplier=64, worker_send_task_events=False, broker_connection_retry_on_startup=True)


@app.task(name="nothing")
def nothing(number: int) -> list[float]:
    return [number, time.time()]


def call(number: int) -> Any:
    return nothing.delay(number)


def result(handle: Any) -> list[float]:
    return handle.get(timeout=600)
