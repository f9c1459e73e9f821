"""The result backend: results live in the ORM, for tasks, operations and launches alike.

It is django-celery-results' own, with one statement per state, and with states that are final once a task has ended.
"""

import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from celery import states as celery_states
from celery.app.task import Context
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import F
from django.utils import timezone
from django_celery_results.backends import database
from django_celery_results.models import ChordCounter, TaskResult  # type: ignore[attr-defined]

from handbell import states
from handbell.celery import chords
from handbell.common.codec import storable
from handbell.common.doorbell import adapt_datetime
from handbell.common.outages import retry_through_outage
from handbell.common.polling import poll
from handbell.models import Call, Launch, Operation
from handbell.plain import sql
from handbell.plain.db_retry import store_or_exit
from handbell.plain.message import Message
from handbell.plain.outbox import publish_call
from handbell.plain.result_buffer import buffer_result
from handbell.queues import ISOLATED, SERIAL

MAX_RESULT_POLL_SECONDS = 0.03  # between two looks at a result that somebody waits for
logger = logging.getLogger(__name__)


class DatabaseBackend(database.DatabaseBackend):  # type: ignore[misc]  # the library has no types
    def new_result_row(self, headers: Mapping[str, Any], queue: str, periodic_task: str | None) -> dict[str, Any]:
        """The row of a task that has just been called."""
        now = adapt_datetime(timezone.now())
        return {
            "task_id": headers["id"],
            "task_name": headers["task"],
            "status": sql.CELERY_QUEUED,
            "task_args": self._text(headers["argsrepr"]),
            "task_kwargs": self._text(headers["kwargsrepr"]),
            "periodic_task_name": periodic_task,
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "meta": self._text({"queue": queue, "children": []}),
            "date_created": now,
            "date_done": now,
            "date_started": None,
            "worker": None,
            "result": None,
            "traceback": None,
        }

    def claim(self, request: Context) -> bool:
        """Claim a call for this process, and make its state STARTED; False if it has been run, or is being run."""
        return bool(retry_through_outage(lambda: self._claim(request)))

    def _claim(self, request: Context) -> bool:
        task_id, hostname = str(request.id), str(request.hostname)
        process = {"pid": os.getpid(), "thread": threading.get_native_id(), "hostname": hostname}
        if sql.claim_call(task_id, hostname, self._text(process)):
            return True
        if Call.objects.filter(task_id=task_id).exists():
            # It may be ours: the answer to a claim that was committed can be lost with the connection.
            return TaskResult.objects.filter(task_id=task_id, status="STARTED", result=self._text(process)).exists()
        # Nobody recorded this call: it comes from another program.
        return self._store(task_id, process, celery_states.STARTED, None, request)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Context | None = None,
        store_result: bool = True,
        state: str = celery_states.SUCCESS,
    ) -> None:
        """Store a result and, in the same transaction, what follows from it for a chord.

        If the database cannot be reached for a minute, see `store_or_exit`: a task that has succeeded is never said to
        have failed.
        """
        stored = store_result and not (request and request.ignore_result)
        if stored and not (request and request.chord):
            changes = self._changes(self.encode_result(result, state), state, None, request)
            if buffer_result(task_id, changes):
                return
        store_or_exit(lambda: self._end(task_id, result, state, None, request, stored), f"The result of {task_id}")

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Context | None = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = celery_states.FAILURE,
    ) -> None:
        """Store a failure and, in the same transaction, what follows from it for a chord and a chain; then call the
        errbacks. All of it once, however often the same failure is reported.
        """
        failure = f"The failure of {task_id}"
        if not store_or_exit(lambda: self._end(task_id, exc, state, traceback, request, store_result), failure):
            return
        if request and call_errbacks and request.errbacks:
            self._call_task_errbacks(request, exc, traceback)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Context | None = None,
        store_result: bool = True,
        state: str = celery_states.REVOKED,
    ) -> None:
        retry_through_outage(lambda: self._end(task_id, TaskRevokedError(reason), state, None, request, store_result))

    def _end(
        self, task_id: str, result: Any, state: str, traceback: str | None, request: Context | None, stored: bool
    ) -> bool:
        chain = request and state != celery_states.SUCCESS and request.chain
        scope = transaction.atomic() if request and (request.chord or chain) else nullcontext()
        with scope:
            if stored and not self._store(task_id, self.encode_result(result, state), state, traceback, request):
                return False
            if request and request.chord:
                self.on_chord_part_return(request, state, result)
            if chain:
                self._fail_chain(chain, result, traceback, store_result=stored, state=state)
        return True

    def on_chord_part_return(self, request: Context, state: str, result: Any, **kwargs: Any) -> None:
        """Count a part of a chord that has just ended; the last one calls the body."""
        if not request.id or not request.group:
            return
        with transaction.atomic():
            counters = ChordCounter.objects.using(DEFAULT_DB_ALIAS).filter(group_id=request.group)
            if not counters.update(count=F("count") - 1):
                logger.warning("The chord of group %s is over, or was never begun.", request.group)
            elif (counter := counters.filter(count=0).first()) is not None:
                counter.delete()
                chords.call_body(self, counter, request.chord)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Begin to count; a chord that is begun a second time, by a task that runs again, is the same one."""
        group_id = getattr(header_result_args, "id", None) or header_result_args[0]
        if not ChordCounter.objects.filter(group_id=group_id).exists():
            super().apply_chord(header_result_args, body, **kwargs)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        status: str,
        traceback: str | None = None,
        request: Context | None = None,
        using: str | None = None,
    ) -> Any:
        """Store a state, unless the task has ended. A retry's message is sent now that its state is stored.

        With `task_track_started` Celery says STARTED before it runs a task. For a call of the ledger that is left out:
        its claim writes the same, and only if nobody else runs it.
        """
        if status == celery_states.STARTED and self._is_claimed_later(request):
            return result
        retry_through_outage(lambda: self._store(task_id, result, status, traceback, request))
        if status == celery_states.RETRY:
            call = Call.objects.filter(task_id=task_id, worker="", sent_at=None).first()
            message = Message.from_json(call.message) if call else None
            if message and not sql.is_deferred(message):
                publish_call(message)
        return result

    def _is_claimed_later(self, request: Context | None) -> bool:
        if request is None or getattr(request, "claimed", None) is True:
            return False
        name = getattr(request, "task", None)
        return isinstance(self.app.tasks.get(name), self.app.Task)  # a PlainTask, which claims when it is called

    def _store(self, task_id: str, result: Any, status: str, traceback: str | None, request: Context | None) -> bool:
        """One statement. Whether the task had not ended before."""
        changes = self._changes(result, status, traceback, request)
        ended = status in celery_states.READY_STATES
        if sql.finish_call(task_id, changes) if ended else sql.change_result(task_id, changes):
            return True
        extended = self._get_extended_properties(request, traceback)
        content = {"content_type": self.content_type, "content_encoding": self.content_encoding}
        row = {"task_id": task_id, "date_created": changes["date_done"], **extended, **content}
        return sql.insert_result(row, changes)

    def _changes(self, result: Any, status: str, traceback: str | None, request: Context | None) -> dict[str, Any]:
        now = adapt_datetime(timezone.now())
        meta = {**self._get_meta_from_request(request), "children": self.current_task_children(request)}
        changes = {
            "status": status,
            "result": self._text(result),
            "meta": self._text(meta),
            "traceback": storable(traceback) if traceback else None,
            "date_done": now,
        }
        if status == celery_states.STARTED:
            changes["date_started"] = now
        if worker := getattr(request, "hostname", None):
            changes["worker"] = worker
        return changes

    def _text(self, value: Any) -> str:
        return str(self.encode_content(value)[2])

    def _get_meta_from_request(self, request: Context | None = None) -> dict[str, Any]:
        """Add `queue`, which Celery's `AsyncResult.queue` reads."""
        meta = dict(super()._get_meta_from_request(request))
        delivery = getattr(request, "delivery_info", None) or {}
        if isinstance(queue := delivery.get("routing_key"), str):
            meta["queue"] = queue
        return meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """The state of a task, an operation or a launch. An id that is none of them has the state PENDING, which is
        Celery's unknown.
        """
        meta = dict(super()._get_task_meta_for(task_id))
        if meta["status"] == celery_states.PENDING:
            operation = Operation.objects.filter(task_id=task_id).first()
            if operation is not None:
                return dict(self.meta_from_decoded(_operation_meta(operation)))
            launch = Launch.objects.filter(task_id=task_id).first()
            if launch is not None:
                return dict(self.meta_from_decoded(_launch_meta(launch)))
        return meta

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = MAX_RESULT_POLL_SECONDS,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """Wait for a result, looking often at first and then every `interval` seconds, or more often.

        Raises:
            celery.exceptions.TimeoutError: it was not there within `timeout` seconds.
        """
        self._ensure_not_eager()
        meta: dict[str, Any] = {}

        def is_ready() -> bool:
            meta.update(self.get_task_meta(task_id))
            if meta["status"] not in celery_states.READY_STATES and on_interval:
                on_interval()
            return meta["status"] in celery_states.READY_STATES

        if not poll(is_ready, timeout, min(interval, MAX_RESULT_POLL_SECONDS)):
            raise CeleryTimeoutError("The operation timed out.")
        return meta


def _operation_meta(operation: Operation) -> dict[str, Any]:
    return {
        "task_id": operation.task_id,
        "status": states.TO_CELERY[operation.status],
        "result": json.loads(operation.result) if operation.result is not None else None,
        "traceback": operation.traceback,
        "date_done": operation.finished_at,
        "name": operation.task,
        "queue": SERIAL,
        "retries": max(0, operation.attempts - 1),
        "children": [],
    }


def _launch_meta(launch: Launch) -> dict[str, Any]:
    return {
        "task_id": launch.task_id,
        "status": states.TO_CELERY[launch.status],
        "result": json.loads(launch.result) if launch.result is not None else None,
        "traceback": launch.traceback,
        "date_done": launch.finished_at,
        "name": launch.task,
        "queue": ISOLATED,
        "retries": 0,
        "children": [],
    }
