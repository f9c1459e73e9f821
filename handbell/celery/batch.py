"""The doorbell of a task whose calls are claimed several at a time: run what waits, as a worker runs its messages."""

import time
from typing import Any

from celery import Task, current_app, shared_task
from celery.app.task import Context
from celery.app.trace import trace_task

from handbell.celery.call_run import CallRun
from handbell.plain.batching import RUN_BATCH, batch_doorbell, claim_batch
from handbell.plain.message import Message
from handbell.plain.result_buffer import buffered_results

BATCH_SLICE_SECONDS = 1.0


@shared_task(name=RUN_BATCH, ignore_result=True, bind=True)
def run_batch(self: Task[..., Any], name: str) -> None:
    """Answer the doorbell: claim and run what waits, for about a second; then ring for the rest."""
    batch_doorbell(name, "").answer()
    task: Any = current_app.tasks.get(name)
    deadline, hostname = time.monotonic() + BATCH_SLICE_SECONDS, str(self.request.hostname)
    while task is not None and (messages := claim_batch(name, hostname, task.claims)):
        doorbell = batch_doorbell(name, messages[0].queue)
        if len(messages) == task.claims:
            doorbell.ring()
        with buffered_results():
            for message in messages:
                run_message(task, message, hostname)
        if time.monotonic() > deadline:
            doorbell.ring()
            return


def run_message(task: Any, message: Message, hostname: str) -> None:
    """Run a claimed call as a worker's process runs a task whose message it has received."""
    request = message.request()
    here = {"hostname": hostname, "is_eager": False, "headers": Context(request).headers or {}, "call_run": CallRun()}
    trace_task(task, request["id"], request["args"], request["kwargs"], {**request, **here}, app=current_app)
