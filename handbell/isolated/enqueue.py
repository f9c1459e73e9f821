"""Writing launches to the ledger, in the caller's transaction, and ringing the doorbell after its commit."""

import json
import uuid
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from celery.result import AsyncResult
from django.db import models, transaction
from django.utils import timezone

from handbell.common.codec import encode_arguments
from handbell.common.ledger_task import ManyResults, new_id_prefix, numbered_task_id
from handbell.isolated.doorbell import launches_doorbell
from handbell.models import Launch

R = TypeVar("R")

MAX_INSERT_LAUNCHES = 1_000  # in one transaction


def _primary_key(value: Any) -> Any:
    """A model instance stands for its primary key."""
    if isinstance(value, models.Model):
        return value.pk
    raise TypeError(f"a {type(value).__name__} is not")


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_primary_key).encode


class LaunchCall(NamedTuple):
    """What is to be launched: a task, the checked arguments, and the limits in seconds and MiB."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout: float
    grace: float
    memory_mb: int

    def row(self, task_id: str) -> Launch:
        """The row to insert.

        Raises:
            NotJson, ArgumentsTooLarge: the arguments cannot be stored.
        """
        return Launch(
            task_id=task_id,
            task=self.task,
            arguments=encode_arguments(f"The arguments of {self.task}", (self.args, self.kwargs), _encode),
            timeout=self.timeout,
            grace=self.grace,
            memory_mb=self.memory_mb,
            enqueued_at=timezone.now(),
        )


def enqueue_launch(call: LaunchCall, task_id: str | None = None) -> Launch:
    """Insert one launch; its row, or that of an earlier launch with the same id."""
    row = call.row(task_id or str(uuid.uuid4()))
    if task_id is None:
        row.save(force_insert=True)
    else:
        Launch.objects.bulk_create([row], ignore_conflicts=True)
        row = Launch.objects.get(task_id=task_id)
    launches_doorbell.ring_after_commit()
    return row


def enqueue_launches(calls: Iterable[LaunchCall], result: Callable[[str], AsyncResult[R]]) -> ManyResults[R]:
    """Insert a launch per call, in parts of `MAX_INSERT_LAUNCHES`; their results, each made by `result` from its id."""
    prefix = new_id_prefix()
    remaining, total = iter(calls), 0
    while part := list(islice(remaining, MAX_INSERT_LAUNCHES)):
        rows = [call.row(numbered_task_id(prefix, total + number)) for number, call in enumerate(part)]
        with transaction.atomic():
            Launch.objects.bulk_create(rows)
            launches_doorbell.ring_after_commit()
        total += len(part)
    return ManyResults(prefix, total, result)
