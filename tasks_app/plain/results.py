"""The result backend: results live in the ORM, for tasks and for operations alike."""

import json
import time
from typing import Any

from celery import states as celery_states
from celery.app.task import Context
from celery.exceptions import TimeoutError as CeleryTimeoutError
from django_celery_results.backends import database

from tasks_app import states
from tasks_app.models import Launch, Operation
from tasks_app.queues import ISOLATED, SERIAL

SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 0.1  # seconds between two looks at a result that somebody waits for


class DatabaseBackend(database.DatabaseBackend):  # type: ignore[misc]  # the library has no types
    def _get_meta_from_request(self, request: Context | None = None) -> dict[str, Any]:
        """Add `queue`, which Celery's `AsyncResult.queue` reads."""
        meta = dict(super()._get_meta_from_request(request))
        delivery = getattr(request, "delivery_info", None) or {}
        if delivery.get("routing_key"):
            meta["queue"] = delivery["routing_key"]
        return meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """The state of a task, an operation or a launch. An id that is none of them has the state PENDING, which is
        Celery's unknown.
        """
        if not self.TaskModel._default_manager.filter(task_id=task_id).exists():
            operation = Operation.objects.filter(task_id=task_id).first()
            if operation is not None:
                return dict(self.meta_from_decoded(_described(operation)))
            launch = Launch.objects.filter(task_id=task_id).first()
            if launch is not None:
                return dict(self.meta_from_decoded(_launch(launch)))
        return dict(super()._get_task_meta_for(task_id))

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = LONGEST_PAUSE,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """Wait for a result, looking often at first and then every `interval` seconds, a tenth at the most.

        Raises:
            celery.exceptions.TimeoutError: it was not there within `timeout` seconds.
        """
        self._ensure_not_eager()
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = SHORTEST_PAUSE
        while True:
            meta = self.get_task_meta(task_id)
            if meta["status"] in celery_states.READY_STATES:
                return dict(meta)
            if on_interval:
                on_interval()
            if deadline is not None and time.monotonic() >= deadline:
                raise CeleryTimeoutError("The operation timed out.")
            time.sleep(pause)
            pause = min(pause * 1.5, interval, LONGEST_PAUSE)


def _described(operation: Operation) -> dict[str, Any]:
    return {
        "task_id": operation.task_id,
        "status": states.TO_CELERY[operation.status],
        "result": json.loads(operation.result) if operation.result is not None else None,
        "traceback": operation.traceback,
        "date_done": operation.finished_at,
        "name": operation.task,
        "queue": SERIAL.name,
        "retries": max(0, operation.attempts - 1),
        "children": [],
    }


def _launch(launch: Launch) -> dict[str, Any]:
    return {
        "task_id": launch.task_id,
        "status": states.TO_CELERY[launch.status],
        "result": json.loads(launch.result) if launch.result is not None else None,
        "traceback": launch.traceback,
        "date_done": launch.finished_at,
        "name": launch.task,
        "queue": ISOLATED.name,
        "retries": 0,
        "children": [],
    }
