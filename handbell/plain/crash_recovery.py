"""What happens to the calls of a process that died, or of a worker that leaves: they run again, or are lost."""

import logging

from celery import current_app, signals
from celery.app.task import Context
from celery.worker.request import Request
from django.db import Error
from django.db.models import Q

from handbell.common.doorbell import adapt_datetime
from handbell.common.worker_id import WORKER_ID, child_claimant
from handbell.errors import ProcessDied
from handbell.models import Call, Worker
from handbell.plain import sql
from handbell.plain.batching import RUN_BATCH
from handbell.plain.message import Message
from handbell.plain.outbox import publish_call
from handbell.plain.write_backlog import write_backlog

logger = logging.getLogger(__name__)


def release_claimed_calls() -> None:
    """When this worker leaves: give back what it has not finished, without counting a crash."""
    try:
        Worker.objects.filter(pk=WORKER_ID).delete()
        claimed = Q(worker=WORKER_ID) | Q(worker__startswith=child_claimant(""))
        for task_id, claimant in list(Call.objects.filter(claimed).values_list("task_id", "worker")):
            sql.release_call(task_id, claimant, crashed=False)
    except Error as error:
        logger.warning("The database was not told that this worker leaves: %s", str(error).strip())


def process_died(request: Request, error: BaseException) -> None:
    """A child process has died while it ran a task: what it had claimed is given back, by the write backlog."""
    how = f"it called sys.exit({error})" if isinstance(error, SystemExit) else str(error).rstrip(".")
    reason = f"the process that ran it died: {how}"
    if request.name == RUN_BATCH:
        write_backlog.add(lambda: _recover_batch(child_claimant(request.worker_pid), reason))
    else:
        write_backlog.add(lambda: recover_call(request.id, WORKER_ID, reason))


def _recover_batch(child: str, reason: str) -> None:
    for task_id in list(Call.objects.filter(worker=child).order_by("id").values_list("task_id", flat=True)):
        recover_call(task_id, child, reason)


def recover_call(task_id: str, worker: str, reason: str) -> None:
    """Run a call again whose process has died. After `max_crashes` such processes it fails as lost instead."""
    crash_count = sql.release_call(task_id, worker, crashed=True)
    call = Call.objects.filter(task_id=task_id, worker="").first() if crash_count is not None else None
    if call is None or crash_count is None:
        return  # it had ended
    message = Message.from_json(call.message)
    name = message.headers["task"]
    task = current_app.tasks.get(name)
    if crash_count < getattr(task, "max_crashes", 1):
        logger.warning("%s %s runs again: %s.", name, task_id, reason)
        publish_call(message, adapt_datetime(call.enqueued_at))
        return
    lost = ProcessDied(
        f"lost: {reason}, as it did before, {crash_count} times in all" if crash_count > 1 else f"lost: {reason}"
    )
    logger.error("%s %s is %s.", name, task_id, lost)
    context = Context(message.request())
    current_app.backend.mark_as_failure(task_id, lost, request=context)
    signals.task_failure.send(
        sender=task,
        task_id=task_id,
        exception=lost,
        args=context.args,
        kwargs=context.kwargs,
        traceback=None,
        einfo=None,
    )
