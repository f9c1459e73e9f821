"""The Celery tasks that run tasks of Django's own framework, for `handbell.tasks`, which enqueues them."""

import inspect
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from celery import Task, shared_task
from django.utils.module_loading import import_string

from handbell.celery.async_run import run_to_the_end
from handbell.errors import UnknownTask
from handbell.serial.declare import serial_task

MAX_RETRY_SECONDS = 3600


class RunDetails(TypedDict):
    """What is stored of a Django task with its call: its result's id, its function, what `using()` was given, and when
    it was enqueued.
    """

    id: str
    path: str
    backend: str
    priority: int
    queue_name: str
    run_after: str | None
    enqueued_at: str


@shared_task(bind=True, name="handbell.run_django_task", max_retries=None, ignore_result=False)
def run_django_task(self: Task[..., Any], call: str) -> Any:
    """Run the function of a Django task, again after a while if it raises and may be tried more often.

    `call` is JSON of its details and arguments: one text, because Celery takes objects with certain keys in arguments
    for values of its own encoding.
    """
    details, args, kwargs = json.loads(call)
    task = find_django_task(details)
    with task.get_backend().running(self, task, details, args, kwargs) as run:
        if inspect.iscoroutinefunction(task.func):
            return run.succeeds(run_to_the_end(self, lambda: task.func(*run.args, **run.kwargs)))
        return run.succeeds(task.func(*run.args, **run.kwargs))


@serial_task(name="handbell.run_django_task_in_lane")
def run_django_task_in_lane(details: RunDetails, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The same in the lane of its key: one at a time, in order, its effects in the database exactly once."""
    task = find_django_task(details)
    with task.get_backend().running(None, task, details, args, kwargs) as run:
        return run.succeeds(task.func(*run.args, **run.kwargs))


def find_django_task(details: RunDetails) -> Any:
    """The task as it was enqueued.

    Raises:
        UnknownTask: this deployment does not have it, or it is no task of this backend.
    """
    try:
        task: Any = import_string(details["path"])
    except ImportError:
        task = None
    if not hasattr(task, "get_backend"):
        raise UnknownTask(f"This deployment has no @task called {details['path']}. Deploy it.")
    run_after = details["run_after"] and datetime.fromisoformat(details["run_after"])
    task = task.using(
        backend=details["backend"],
        priority=details["priority"],
        queue_name=details["queue_name"],
        run_after=run_after or None,
    )
    if not hasattr(task.get_backend(), "running"):
        raise UnknownTask(f"{details['path']} is not run: its backend {details['backend']} is not Handbell's any more.")
    return task
