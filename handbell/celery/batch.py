"""The doorbell of a task whose calls are claimed several at a time: run what waits, as a worker runs its messages."""

import time
from functools import partial
from typing import Any

from celery import Task, current_app, shared_task
from celery.app.task import Context
from celery.app.trace import trace_task

from handbell.celery.call_run import CallRun
from handbell.common.doorbell import NO_LIMIT_SECONDS
from handbell.common.time_limits import WorkKind, run_limited
from handbell.plain.batching import RUN_BATCH, batch_doorbell, claim_batch, revocation_count, without_revoked
from handbell.plain.message import Message
from handbell.plain.result_buffer import buffered_results

BATCH_SLICE_SECONDS = 1.0


@shared_task(
    name=RUN_BATCH, ignore_result=True, bind=True, time_limit=NO_LIMIT_SECONDS, soft_time_limit=NO_LIMIT_SECONDS
)
def run_batch(self: Task[..., Any], name: str) -> None:
    """Answer the doorbell: claim and run what waits, for about a second; then ring for the rest."""
    batch_doorbell(name, "").answer()
    task: Any = current_app.tasks.get(name)
    deadline, hostname = time.monotonic() + BATCH_SLICE_SECONDS, str(self.request.hostname)
    while task is not None:
        revocations = revocation_count()
        calls = claim_batch(name, hostname, task.claims)
        if not calls:
            return
        doorbell = batch_doorbell(name, calls[0].message.queue)
        if len(calls) == task.claims:
            doorbell.ring()
        with buffered_results():
            for call in without_revoked(calls, revocations):
                run_limited(WorkKind.CALL, call.id, 0, None, None, partial(run_message, task, call.message, hostname))
        if time.monotonic() > deadline:
            doorbell.ring()
            return


def run_message(task: Any, message: Message, hostname: str) -> None:
    """Run a claimed call as a worker's process runs a task whose message it has received."""
    request = message.request()
    here = {"hostname": hostname, "is_eager": False, "headers": Context(request).headers or {}, "call_run": CallRun()}
    trace_task(task, request["id"], request["args"], request["kwargs"], {**request, **here}, app=current_app)
