"""Writing launches to the ledger, in the caller's transaction, and ringing the doorbell after its commit."""

import json
import uuid
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, NamedTuple

from celery.result import AsyncResult
from django.db import models, transaction
from django.utils import timezone

from tasks_app.calls import ManyResults, id_of, new_prefix
from tasks_app.errors import NotJson
from tasks_app.isolated.doorbell import ring_after_commit
from tasks_app.models import Launch

PART = 1_000  # launches in one bulk insert


def _key_of(value: Any) -> Any:
    """A model instance stands for its primary key."""
    if isinstance(value, models.Model):
        return value.pk
    raise TypeError(f"a {type(value).__name__} is not")


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_key_of).encode


class Call(NamedTuple):
    """What is to be launched: a task, the checked arguments, and the limits."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout: float
    grace: float
    memory_mb: int

    def row(self, task_id: str) -> Launch:
        try:
            arguments = _encode((self.args, self.kwargs))
        except (TypeError, ValueError) as error:
            raise NotJson(f"Arguments must be JSON: {error}. Pass keys, numbers, texts, lists and dicts.") from error
        return Launch(
            task_id=task_id,
            task=self.task,
            arguments=arguments,
            timeout=self.timeout,
            grace=self.grace,
            memory_mb=self.memory_mb,
            enqueued_at=timezone.now(),
        )


def enqueue(call: Call, task_id: str | None = None) -> Launch:
    """Insert one launch; its row, or that of the one that came first with the same id."""
    row = call.row(task_id or str(uuid.uuid4()))
    if task_id is None:
        row.save(force_insert=True)
    else:
        Launch.objects.bulk_create([row], ignore_conflicts=True)
        row = Launch.objects.get(task_id=task_id)
    ring_after_commit()
    return row


def enqueue_many(calls: Iterable[Call], result: Callable[[str], AsyncResult[Any]]) -> ManyResults:
    """Insert a launch per call, in parts."""
    prefix = new_prefix()
    remaining, total = iter(calls), 0
    while part := list(islice(remaining, PART)):
        rows = [call.row(id_of(prefix, total + number)) for number, call in enumerate(part)]
        with transaction.atomic():
            Launch.objects.bulk_create(rows)
            ring_after_commit()
        total += len(part)
    return ManyResults(prefix, total, result)
