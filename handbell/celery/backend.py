"""The result backend: results live in the ORM, for tasks, operations and launches alike.

It is django-celery-results' own, with one statement per state, and with states that are final once a task has ended.
"""

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from typing import Any

from celery import states as celery_states
from celery.app.task import Context
from celery.exceptions import NotRegistered, TaskRevokedError
from celery.result import GroupResult
from celery.utils.time import maybe_timedelta
from django.db import DEFAULT_DB_ALIAS, Error, transaction
from django.db.models import F
from django.utils import timezone
from django_celery_results.models import ChordCounter, TaskResult  # type: ignore[attr-defined]

from handbell.celery import chords
from handbell.celery.call_run import CallRun, call_run, claim_token
from handbell.celery.confirmation import drop_unrecorded
from handbell.celery.read_results import ResultReader
from handbell.common.claims import new_claim_token
from handbell.common.codec import storable
from handbell.common.db_retry import write_or_exit
from handbell.common.doorbell import adapt_datetime
from handbell.common.outages import is_outage, retry_through_outage
from handbell.models import Call
from handbell.models.task_result import ENDED
from handbell.plain import insert, sql
from handbell.plain.crash_recovery import may_begin_twice
from handbell.plain.enqueue import store_retry
from handbell.plain.message import ENQUEUED_AT, Message
from handbell.plain.result_buffer import buffer_result

#: States of a task that has ended itself without a result.
ENDED_BY_TASK = frozenset({celery_states.IGNORED, celery_states.REJECTED})
logger = logging.getLogger(__name__)


class DatabaseBackend(ResultReader):
    def new_result_row(self, headers: Mapping[str, Any], queue: str, periodic_task: str | None) -> dict[str, Any]:
        """The row of a task that has just been called."""
        now = adapt_datetime(timezone.now())
        return {
            "task_id": headers["id"],
            "task_name": headers.get("shadow") or headers["task"],
            "status": celery_states.PENDING,
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

    def claim(self, request: Context, run: CallRun) -> bool:
        """Claim a call for this process, and make its state STARTED; False if it has been run, or is being run."""
        token = new_claim_token()
        try:
            return retry_through_outage(lambda: self._claim(request, run, token))
        except Error as error:
            if not is_outage(error):
                raise
        # Nobody knows whether it is ours, and it has not begun.
        write_or_exit(lambda: sql.release_call(str(request.id), token, crashed=False), f"The claim of {request.id}")
        return False

    def _claim(self, request: Context, run: CallRun, token: int) -> bool:
        task_id, hostname = str(request.id), str(request.hostname)
        process = {"pid": os.getpid(), "thread": threading.get_native_id(), "hostname": hostname}
        waits_for_disk = not may_begin_twice(self.app.tasks.get(getattr(request, "task", None)))
        said = getattr(request, ENQUEUED_AT, None)
        enqueued_at = datetime.fromisoformat(said) if said else None
        is_ours = sql.claim_call(
            task_id, token, hostname, self._text(process), enqueued_at, waits_for_disk=waits_for_disk
        )
        if not is_ours:
            found = Call.objects.filter(task_id=task_id).values_list("claim_token", flat=True)
            if not found:  # nobody recorded this call: it comes from another program
                drop_unrecorded(str(getattr(request, "task", "")), task_id)
                return self._store(task_id, process, celery_states.STARTED, None, request)
            # The answer to a claim that was committed can be lost with the connection.
            is_ours = found[0] == token and TaskResult.objects.filter(task_id=task_id, status="STARTED").exists()
            if not is_ours and not TaskResult.objects.exclude(ENDED).filter(task_id=task_id).exists():
                sql.delete_call_without_result(task_id, token)
        run.claim_token = token if is_ours else None
        return is_ours

    def cleanup(self) -> None:
        """Delete the results of tasks that ended longer ago than `result_expires` says, and of no others."""
        if self.expires:
            before = timezone.now() - maybe_timedelta(self.expires)
            TaskResult.objects.filter(ENDED, date_done__lt=before).delete()
            self.GroupModel._default_manager.delete_expired(self.expires)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Context | None = None,
        store_result: bool = True,
        state: str = celery_states.SUCCESS,
    ) -> None:
        """Store a result and, in the same transaction, what follows from it: for a chord, and for whatever is linked or
        chained to the task.

        If the database cannot be reached for a minute, see `write_or_exit`: a task that has succeeded is never said to
        have failed.
        """
        run = call_run(request)
        if run and run.retry:  # it asked to be run again, and returned
            self.mark_as_retry(task_id, None, request=request)
            return
        stored = store_result and not (request and request.ignore_result)
        if stored and not (request and request.chord) and not (run and run.followers):
            changes = self._changes(self.encode_result(result, state), state, None, request)
            if buffer_result(task_id, claim_token(request), changes):
                return
        write_or_exit(lambda: self._end(task_id, result, state, None, request, stored), f"The result of {task_id}")

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
        """Store a failure and, in the same transaction, what follows from it for a chord and a chain, and the calls of
        its errbacks. All of it once, however often the same failure is reported. Errbacks that take the request and the
        error are functions: they run here, when the failure is stored.
        """
        run = call_run(request)
        if run and run.retry:  # it asked to be run again, and then raised another error
            self.mark_as_retry(task_id, exc, traceback, request)
            return
        here, sent = self._errbacks(request) if request and call_errbacks else ([], [])
        failure = f"The failure of {task_id}"
        ended = write_or_exit(lambda: self._end(task_id, exc, state, traceback, request, store_result, sent), failure)
        if ended is not False and here:
            self._call_task_errbacks(_with_errbacks(request, here), exc, traceback)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Context | None = None,
        store_result: bool = True,
        state: str = celery_states.REVOKED,
    ) -> None:
        """Store that a task was revoked, with what follows from it. What another process runs is left to its worker."""
        if request is None:
            call = retry_through_outage(lambda: Call.objects.filter(task_id=task_id).first())
            if call is not None and call.claimed_by:
                return
            request = Context(Message.from_json(call.message).request()) if call else None
        retry_through_outage(lambda: self._end(task_id, TaskRevokedError(reason), state, None, request, store_result))

    def end_without_result(self, request: Context, state: str, *, requeue: bool = False) -> bool:
        """Write that a call which this process runs is over without a result; False if it is not ours any more.

        The state changes unless the task has given itself one. A call that is to be requeued waits again instead, and
        so does one that has asked for a retry.
        """
        run, task_id, token = call_run(request), str(request.id), claim_token(request)
        if run and run.retry:
            self.mark_as_retry(task_id, None, request=request)
            return True
        if requeue and token is not None:
            released = retry_through_outage(
                lambda: sql.release_call(task_id, token, crashed=False, redelivered=run is not None and run.is_shared)
            )
            return released is not None
        changes = {**self._changes(None, state, None, request), "date_started": None, "worker": None}
        return retry_through_outage(
            lambda: sql.finish_claimed_call(task_id, token, changes, keep_custom_state=state in ENDED_BY_TASK)
        )

    def _end(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None,
        request: Context | None,
        stored: bool,
        errbacks: Sequence[Any] = (),
    ) -> bool:
        """Store how a task ended, with what follows from it; whether it had not ended before."""
        run = call_run(request)
        followers = run.followers if run and state == celery_states.SUCCESS else []
        chain = state != celery_states.SUCCESS and getattr(request, "chain", None)  # an unknown task has none
        several_writes = request and (request.chord or chain or followers or errbacks)
        if run and request and followers:
            run.truncate_children(request.children)  # of an attempt that the database did not take
        with transaction.atomic() if several_writes else nullcontext():
            for call in followers:
                call()
            if stored and not self._store(task_id, self.encode_result(result, state), state, traceback, request):
                if several_writes:
                    transaction.set_rollback(True)
                return False
            if request and request.chord:
                self.on_chord_part_return(request, state, result)
            if chain:
                steps = list(chords.steps_with_results(chain))
                self._fail_chain(steps, result, traceback, store_result=stored, state=state)
            if errbacks:
                self._call_task_errbacks(_with_errbacks(request, errbacks), result, traceback)
        return True

    def _errbacks(self, request: Context) -> tuple[list[Any], list[Any]]:
        """The errbacks that Celery calls as functions (see its `_call_task_errbacks`), and those that it sends."""
        here: list[Any] = []
        sent: list[Any] = []
        for errback in request.errbacks or ():
            signature: Any = self.app.signature(errback)
            try:
                header = getattr(signature.type, "__header__", None)
                is_function = header and not isinstance(header, partial) and self._errback_arity_greater(signature, 1)
            except NotRegistered:
                is_function = False
            (here if is_function else sent).append(errback)
        return here, sent

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
        is_result = isinstance(header_result_args, GroupResult)
        header: Any = header_result_args if is_result else self.app.GroupResult(*header_result_args)
        ChordCounter.objects.get_or_create(
            group_id=header.id,
            defaults={
                "sub_tasks": json.dumps([result.as_tuple() for result in header]),
                "count": body.get("chord_size") or chords.count_parts(header),
            },
        )

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Count one more part of a chord, for a task that is one itself and has not ended."""
        with transaction.atomic():
            counter = ChordCounter.objects.using(DEFAULT_DB_ALIAS).select_for_update().get(group_id=chord_id)
            counter.sub_tasks = json.dumps([*json.loads(counter.sub_tasks), result.as_tuple()])
            counter.count += 1
            counter.save()

    def _store_result(
        self,
        task_id: str,
        result: Any,
        status: str,
        traceback: str | None = None,
        request: Context | None = None,
        using: str | None = None,
    ) -> Any:
        """Store a state, unless the task has ended. With the state RETRY, the call is written that runs it again.

        With `task_track_started` Celery says STARTED before it runs a task. For a call of the ledger that is left out:
        its claim writes the same, and only if nobody else runs it.
        """
        if status == celery_states.STARTED and self._is_claimed_later(request):
            return result
        run = call_run(request)
        if status == celery_states.RETRY and run and run.retry:
            changes = self._changes(result, status, traceback, request)
            message = run.retry
            retry_through_outage(lambda: store_retry(message, claim_token(request), changes))
        else:
            retry_through_outage(lambda: self._store(task_id, result, status, traceback, request))
        return result

    def _is_claimed_later(self, request: Context | None) -> bool:
        run = call_run(request)
        if request is None or (run is not None and run.has_begun):
            return False
        name = getattr(request, "task", None)
        return isinstance(self.app.tasks.get(name), self.app.Task)  # a PlainTask, which claims when it is called

    def _store(self, task_id: str, result: Any, status: str, traceback: str | None, request: Context | None) -> bool:
        """One statement. Whether the task had not ended before, and nobody else runs it."""
        changes, token = self._changes(result, status, traceback, request), claim_token(request)
        if status in celery_states.READY_STATES:
            stored = sql.finish_call(task_id, token, changes)
        else:
            has_row = sql.update_state(task_id, token, changes)
            stored = sql.Stored(has_row or token is None, has_row)
        if stored.has_row or not stored.is_ours:
            return stored.has_row
        extended = self._get_extended_properties(request, traceback)
        content = {"content_type": self.content_type, "content_encoding": self.content_encoding}
        row = {"task_id": task_id, "date_created": changes["date_done"], **extended, **content}
        return insert.insert_result(row, changes)

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
        run = call_run(request)
        if status == celery_states.STARTED:
            changes["date_started"] = now
        elif run and run.started_at:
            changes["date_started"] = adapt_datetime(run.started_at)
        if worker := getattr(request, "hostname", None):
            changes["worker"] = worker
        return changes

    def _text(self, value: Any) -> str:
        return str(self.encode_content(value)[2])

    def _get_meta_from_request(self, request: Context | None = None) -> dict[str, Any]:
        """Add `queue` and `retries`, which Celery's `AsyncResult` reads."""
        meta = dict(super()._get_meta_from_request(request))
        delivery = getattr(request, "delivery_info", None) or {}
        if isinstance(queue := delivery.get("routing_key"), str):
            meta["queue"] = queue
        if isinstance(retries := getattr(request, "retries", None), int) and retries:
            meta["retries"] = retries
        return meta


def _with_errbacks(request: Context | None, errbacks: Sequence[Any]) -> Context:
    return Context({**vars(request), "errbacks": list(errbacks)})
