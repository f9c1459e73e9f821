"""The doorbell of a queue whose calls may be claimed together: run what waits, as a worker runs its messages."""

import logging
import time
from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

from billiard.compat import mem_rss
from celery import Task, current_app, shared_task, states
from celery.app.task import Context
from celery.app.trace import trace_task
from celery.exceptions import NotRegistered, TimeLimitExceeded
from celery.signals import celeryd_after_setup, task_revoked
from django.utils import timezone

from handbell.celery.batch_events import BatchEvents
from handbell.celery.call_run import CallRun
from handbell.common.doorbell import NO_LIMIT_SECONDS
from handbell.common.outages import retry_through_outage
from handbell.common.stop_pipe import is_stop_announced
from handbell.common.time_limits import RunningWork, WorkKind, run_limited
from handbell.common.write_backlog import write_backlog
from handbell.models import Call
from handbell.plain.batch_slots import BatchSlot, batch_slot
from handbell.plain.batching import (
    RUN_BATCH,
    ClaimedCall,
    batch_doorbell,
    changed_limits,
    claim_batch,
    count_waiting,
    release_claimed,
    revocations,
    send_alone,
    without_revoked,
)
from handbell.plain.crash_recovery import expect_death
from handbell.plain.message import Message
from handbell.plain.pace import BATCH_SECONDS, MAX_BATCH_CALLS, durations_by_task, sizes_by_queue
from handbell.plain.result_buffer import buffered_results, write_buffered_results

BATCH_SLICE_SECONDS = 1.0  # for which one message runs batches: the worker has others waiting
logger = logging.getLogger(__name__)


class _Worker:
    """What a worker's processes inherit from it: how many there are, and the limits of its command line."""

    processes: ClassVar[int] = 1
    max_tasks: ClassVar[int | None] = None  # of a process: then each message is for one call
    max_memory_kb: ClassVar[int | None] = None
    time_limit: ClassVar[float | None] = None
    soft_time_limit: ClassVar[float | None] = None


@celeryd_after_setup.connect
def _remember(instance: Any, **kwargs: Any) -> None:
    _Worker.processes = max(1, instance.max_concurrency or instance.concurrency or 1)
    _Worker.max_tasks, _Worker.max_memory_kb = instance.max_tasks_per_child, instance.max_memory_per_child
    _Worker.time_limit, _Worker.soft_time_limit = instance.time_limit, instance.soft_time_limit


@shared_task(
    name=RUN_BATCH, ignore_result=True, bind=True, time_limit=NO_LIMIT_SECONDS, soft_time_limit=NO_LIMIT_SECONDS
)
def run_batch(self: Task[..., Any], queue: str) -> None:
    """Answer the doorbell: claim and run what waits, for about a second; then ring for the rest."""
    doorbell, deadline = batch_doorbell(queue), time.monotonic() + BATCH_SLICE_SECONDS
    doorbell.answer()
    with batch_slot() as slot:
        while Batch(queue, str(self.request.hostname), slot).run():
            if time.monotonic() > deadline or is_stop_announced() or _is_to_be_replaced():
                doorbell.ring()
                return


def _is_to_be_replaced() -> bool:
    """Whether the worker replaces this process once its message is done."""
    return bool(_Worker.max_tasks) or bool(_Worker.max_memory_kb and mem_rss() > _Worker.max_memory_kb)


class Batch:
    """Calls of one queue that are claimed together, and run one after the other. Without a slot, nobody could help if
    one of them took long: so it is only one.
    """

    def __init__(self, queue: str, hostname: str, slot: BatchSlot | None) -> None:
        self.queue, self.hostname, self.slot = queue, hostname, slot
        self.size = sizes_by_queue[queue]

    def run(self) -> bool:
        """Claim and run what fits; whether there may be more."""
        waiting = count_waiting(self.queue, 2 * MAX_BATCH_CALLS * _Worker.processes)
        if not waiting:
            return False
        revoked_before = revocations.value
        is_alone = self.slot is None or _Worker.max_tasks
        calls = claim_batch(self.queue, 1 if is_alone else self.size.limit(waiting, _Worker.processes))
        if not calls:
            return False  # others have them
        if waiting > len(calls):
            batch_doorbell(self.queue).ring()
        if self.slot is None:
            self._run_call(calls[0])
            return True
        self.slot.begin_batch(calls[0].token)
        with buffered_results(self.slot):
            self._run_calls(self.slot, calls, revoked_before)
        self.size.note_end(was_surprising=self.slot.is_recalled)
        return True

    def _run_calls(self, slot: BatchSlot, calls: list[ClaimedCall], revoked_before: int) -> None:
        left = {call.id for call in calls}
        for call in without_revoked(calls, revoked_before):
            expected = durations_by_task[call.message.task].expected
            if expected > BATCH_SECONDS and len(left) > 1:
                self._release(call.token, left - {call.id})
                left = {call.id}
            if call.id not in left or is_stop_announced() or not slot.begin(call.id, expected):
                break
            left.remove(call.id)
            started = time.monotonic()
            self._run_call(call)
            slot.end()
            seconds = time.monotonic() - started
            durations_by_task[call.message.task].note(seconds)
            self.size.durations.note(seconds)
            if left and _is_to_be_replaced():
                break
        if left:
            self._release(calls[0].token, left)

    def _release(self, token: int, calls: Collection[int]) -> None:
        """What others can run meanwhile, and the results that others wait for."""
        write_buffered_results()
        retry_through_outage(partial(release_claimed, token, calls))
        batch_doorbell(self.queue).ring()

    def _run_call(self, call: ClaimedCall) -> None:
        if (changed_limits.get(call.message.task) or {}).get("rate_limit"):  # which the main process keeps
            retry_through_outage(partial(send_alone, call))
            return
        hard, soft = time_limits_of(call)
        run_limited(WorkKind.CALL, call.id, call.token, soft, hard, partial(run_claimed_call, call, self.hostname))


def time_limits_of(call: ClaimedCall) -> tuple[float | None, float | None]:
    """The hard and the soft limit, in seconds: the call's own, its task's, or its worker's."""
    task: Any = current_app.tasks.get(call.message.task)
    hard, soft = call.message.headers.get("timelimit") or (None, None)
    changed = (changed_limits.get(call.message.task) or {}).get("time_limits")
    of_task = changed or (getattr(task, "time_limit", None), getattr(task, "soft_time_limit", None))
    return hard or of_task[0] or _Worker.time_limit, soft or of_task[1] or _Worker.soft_time_limit


def fail_call_at_time_limit(work: RunningWork) -> None:
    """In the worker's main process: store that a call has reached its hard time limit, before its process is killed.
    What else that process has claimed runs again, without counting a crash.
    """
    expect_death(work.pid)
    write_backlog.add(partial(_fail_at_time_limit, work))  # before what becomes of the death


def _fail_at_time_limit(work: RunningWork) -> None:
    call = Call.objects.filter(pk=work.id, claim_token=work.claim_token).first()
    if call is not None:
        message = Message.from_json(call.message)
        limit = int(work.allowed_seconds) if work.allowed_seconds.is_integer() else work.allowed_seconds
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", limit, message.task, call.task_id)
        request = Context({**message.request(), "call_run": CallRun(work.claim_token)})
        current_app.backend.mark_as_failure(call.task_id, TimeLimitExceeded(limit), request=request)


def run_claimed_call(call: ClaimedCall, hostname: str) -> None:
    """Run a claimed call as a worker's process runs a task whose message it has received."""
    request = call.message.request()
    run = CallRun(call.token, started_at=timezone.now())
    here = {"hostname": hostname, "is_eager": False, "headers": Context(request).headers or {}, "call_run": run}
    task = current_app.tasks.get(call.message.task)
    if task is None:
        logger.error("Received unregistered task of type %s.", call.message.task)
        unknown = NotRegistered(call.message.task)
        current_app.backend.mark_as_failure(request["id"], unknown, request=Context({**request, **here}))
        return
    context = Context({**request, **here})
    if (expires := call.message.expires) and timezone.now() > expires:
        _end_expired(call, task, context)
        return
    sends_events = bool(BatchEvents.enabled.value) and task.send_events
    if sends_events:
        BatchEvents.started(context, hostname)
    outcome = trace_task(task, request["id"], request["args"], request["kwargs"], {**request, **here}, app=current_app)
    if sends_events:
        BatchEvents.ended(context, hostname, outcome)
    if outcome.info is not None and outcome.info.state == states.REJECTED:
        _end_rejected(call, outcome.info.retval)


def _end_expired(call: ClaimedCall, task: Any, context: Context) -> None:
    """As Celery's worker does when it is too late for a message."""
    logger.info("Discarding revoked task: %s[%s]", call.message.task, call.message.task_id)
    current_app.backend.mark_as_revoked(call.message.task_id, "expired", request=context)
    task_revoked.send(sender=task, request=context, terminated=False, signum=None, expired=True)


def _end_rejected(call: ClaimedCall, reject: Any) -> None:
    """As Celery's worker does when a task refuses its message: it fails, or waits again."""
    if getattr(reject, "requeue", False):
        batch_doorbell(call.message.queue).ring()
    else:
        request = Context(call.message.request())  # without the claim, which has ended
        current_app.backend.mark_as_failure(call.message.task_id, reject, request=request)
