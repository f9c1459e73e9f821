"""Tasks in which a soft time limit is raised in the middle of Django's own beginning of a transaction."""

from typing import Any

from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction

from handbell import serial_task
from tasks_app.models import Counter, Score


def interrupt() -> None:
    """As a limit that is raised when `atomic()` has begun and its block has not."""
    transaction.atomic().__enter__()
    Score.objects.create(item=4711, value=0)
    raise SoftTimeLimitExceeded


@shared_task(queue="cpu", bind=True)
def interrupted(self: Task[..., Any], then: str) -> str:
    if self.request.retries:
        return "retried"
    try:
        interrupt()
    except SoftTimeLimitExceeded as limit:
        if then == "retry":
            raise self.retry(countdown=0) from limit
        if then == "raise":
            raise
    return "returned"


@serial_task(on=Counter, create=True)
def interrupted_in_lane(counter: Counter, then: str) -> str:
    try:
        interrupt()
    except SoftTimeLimitExceeded:
        if then == "raise":
            raise
    return "returned"
