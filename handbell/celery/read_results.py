"""Reading results: the states of tasks, operations and launches, and waiting for one of them or for many."""

import binascii
import json
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from celery import states as celery_states
from celery.exceptions import TimeoutError as CeleryTimeoutError
from django.db.models import QuerySet
from django_celery_results.backends import database
from django_celery_results.models import TaskResult
from kombu.exceptions import DecodeError

from handbell import states
from handbell.common.polling import pauses, poll
from handbell.models import Launch, Operation
from handbell.models.task_result import ENDED
from handbell.plain.sql import MAX_IDS
from handbell.queues import ISOLATED, SERIAL

MAX_RESULT_POLL_SECONDS = 0.03  # between two looks at a result that somebody waits for
PROCESS_KEYS = {"pid", "thread", "hostname"}  # what a claim says of the process that runs the task


class ResultReader(database.DatabaseBackend):  # type: ignore[misc]  # the library has no types
    """django-celery-results' backend, which finds operations and launches, too, and looks often if somebody waits."""

    supports_native_join = True  # `GroupResult.get` reads many results at a time, with `get_many`

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """The state of a task, an operation or a launch. What waits is PENDING, and so is, as in Celery, an id that
        nobody knows; a task that runs is STARTED only where `task_track_started` is on.
        """
        meta = self._meta_of(self.TaskModel._default_manager.get_task(task_id))
        if meta["date_done"] is None:  # there is no such row
            operation = Operation.objects.filter(task_id=task_id).first()
            if operation is not None:
                return dict(self.meta_from_decoded(_ledger_meta(operation, SERIAL, max(0, operation.attempts - 1))))
            launch = Launch.objects.filter(task_id=task_id).first()
            if launch is not None:
                return dict(self.meta_from_decoded(_ledger_meta(launch, ISOLATED, 0)))
        if meta["status"] == celery_states.STARTED and not self._shows_start(meta["task_name"], meta["result"]):
            return {**meta, "status": celery_states.PENDING, "result": None}
        return meta

    def _meta_of(self, row: TaskResult) -> dict[str, Any]:
        """What Celery's `AsyncResult` reads, of a row."""
        meta: dict[str, Any] = dict(row.as_dict())
        meta |= self.decode_content(row, meta.pop("meta", None)) or {}
        meta["result"] = self.decode_content(row, row.result)
        for name in ("args", "kwargs"):
            text = getattr(row, f"task_{name}")
            try:
                meta[name] = self.decode_content(row, text)
            except (DecodeError, binascii.Error):  # it is as some other program has written it
                meta[name] = text
            meta[f"task_{name}"] = meta[name]
        return dict(self.meta_from_decoded(meta))

    def _shows_start(self, name: str | None, info: Any) -> bool:
        """Whether a task that runs is STARTED for its callers: where that is tracked, or if it has said so itself."""
        task = self.app.tasks.get(name)
        is_of_claim = info is None or (isinstance(info, dict) and info.keys() == PROCESS_KEYS)
        return not is_of_claim or bool(task.track_started if task else self.app.conf.task_track_started)

    def task_result_exists(self, task_id: str) -> bool:
        return any(model.objects.filter(task_id=task_id).exists() for model in (TaskResult, Operation, Launch))

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """Wait for a result, looking often; `on_interval` is called every `interval` seconds.

        Raises:
            celery.exceptions.TimeoutError: it was not there within `timeout` seconds.
        """
        self._ensure_not_eager()
        meta: dict[str, Any] = {}
        next_call = time.monotonic() + interval

        def is_ready() -> bool:
            nonlocal next_call
            meta.update(self.get_task_meta(task_id))
            has_failed = meta["status"] in celery_states.PROPAGATE_STATES
            if on_interval and (has_failed or time.monotonic() >= next_call):
                next_call = time.monotonic() + interval
                on_interval()  # it raises the error of a task before this one, if that is why this one has failed
            return meta["status"] in celery_states.READY_STATES

        if not poll(is_ready, timeout, min(interval, MAX_RESULT_POLL_SECONDS)):
            raise CeleryTimeoutError("The operation timed out.")
        return meta

    def get_many(
        self,
        task_ids: Collection[str],
        timeout: float | None = None,
        interval: float = 0.5,
        on_interval: Any = None,
        max_iterations: int | None = None,
        **options: Any,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The results of these tasks, each with its id, as they end: about in the order of the ids.

        Raises:
            celery.exceptions.TimeoutError: one of them had not ended within `timeout` seconds.
        """
        left, deadline = list(dict.fromkeys(task_ids)), None if timeout is None else time.monotonic() + timeout
        next_call = time.monotonic() + interval
        for number, pause in enumerate(pauses(min(interval, MAX_RESULT_POLL_SECONDS)), start=1):
            ended = dict(self._ended_of(left, looks_at_all=max_iterations is not None))
            self._cache.update(ended)
            yield from ended.items()
            left = [task_id for task_id in left if task_id not in ended]
            if not left or number == max_iterations:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise CeleryTimeoutError(f"{len(left)} of {len(task_ids)} tasks had not ended in time.")
            if on_interval and time.monotonic() >= next_call:
                next_call = time.monotonic() + interval
                on_interval()
            time.sleep(pause)

    def _ended_of(self, task_ids: Sequence[str], *, looks_at_all: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        """Those of these tasks that have ended. Unless it is to look at all, it looks no further than the first part
        of which some have not: whoever waits for all waits for these anyway.
        """
        for start in range(0, len(task_ids), MAX_IDS):
            part = task_ids[start : start + MAX_IDS]
            found = {row.task_id: self._meta_of(row) for row in self._rows(part).filter(ENDED)}
            if len(found) < len(part):
                elsewhere = set(part) - set(self._rows(part).values_list("task_id", flat=True))
                metas = {task_id: self._get_task_meta_for(task_id) for task_id in elsewhere}  # operations, launches
                found |= {key: meta for key, meta in metas.items() if meta["status"] in celery_states.READY_STATES}
            yield from found.items()
            if len(found) < len(part) and not looks_at_all:
                return

    def _rows(self, task_ids: Sequence[str]) -> QuerySet[TaskResult]:
        return TaskResult.objects.filter(task_id__in=task_ids)


def _ledger_meta(row: Operation | Launch, queue: str, retries: int) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "status": states.TO_CELERY[row.status],
        "result": json.loads(row.result) if row.result is not None else None,
        "traceback": row.traceback,
        "date_done": row.finished_at,
        "name": row.task,
        "queue": queue,
        "retries": retries,
        "children": [],
    }
