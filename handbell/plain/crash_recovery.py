"""What happens to the calls of a process that died, or of a worker that leaves: they run again, or are lost."""

import logging
from typing import Any

import psutil
from celery import current_app, signals
from celery.app.task import Context
from celery.worker.request import Request
from django.db import Error, transaction
from django.db.models import Q
from django_celery_results.models import TaskResult

from handbell.common.doorbell import adapt_datetime
from handbell.common.worker_id import MAIN_PID, WORKER_ID, child_claimant
from handbell.errors import ProcessDied
from handbell.models import Call, Worker
from handbell.models.task_result import decoded
from handbell.plain import sql
from handbell.plain.batching import RUN_BATCH
from handbell.plain.message import Message
from handbell.plain.outbox import publish_after_commit
from handbell.plain.write_backlog import write_backlog

_expected_deaths: set[int] = set()
logger = logging.getLogger(__name__)


def release_claimed_calls() -> None:
    """When this worker leaves: give back what it has not finished, without counting a crash. What must not begin a
    second time is lost.
    """
    try:
        Worker.objects.filter(pk=WORKER_ID).delete()
        claimed = Q(worker=WORKER_ID) | Q(worker__startswith=child_claimant(""))
        for call in list(Call.objects.filter(claimed)):
            if may_begin_twice(current_app.tasks.get(Message.from_json(call.message).task)):
                sql.release_call(call.task_id, call.worker, crashed=False)
            else:
                recover_call(call.task_id, call.worker, "its worker was told to stop while it ran")
    except Error as error:
        logger.warning("The database was not told that this worker leaves: %s", str(error).strip())


def expect_death(pid: int) -> None:
    """The process of this worker with this id is ended because of one call; the others that it has claimed do not
    count that as a crash.
    """
    _expected_deaths.add(pid)


def recover_from_death(request: Request, error: BaseException) -> None:
    """A child process has died while it ran a task: what it had claimed is given back, by the write backlog."""
    how = f"it called sys.exit({error})" if isinstance(error, SystemExit) else str(error).rstrip(".")
    reason = f"the process that ran it died: {how}"
    if request.name == RUN_BATCH:
        pid: Any = request.worker_pid
        is_crash = pid not in _expected_deaths
        _expected_deaths.discard(pid)
        write_backlog.add(lambda: _recover_batch(child_claimant(pid), reason, is_crash=is_crash))
    else:
        write_backlog.add(lambda: recover_call(request.id, WORKER_ID, reason))


def recover_from_unseen_death(task_id: str) -> None:
    """Give back a call that a process of this worker had claimed which is gone.

    If a process dies before the worker has heard that it has begun, Celery hands the task on to another one without
    a word. That one cannot claim the call, and is the only one to notice.
    """
    started = TaskResult.objects.filter(task_id=task_id, status="STARTED").values_list("result", flat=True).first()
    process = decoded(started)
    pid = process.get("pid") if isinstance(process, dict) else None
    if isinstance(pid, int) and not _is_of_this_worker(pid):
        recover_call(task_id, WORKER_ID, "the process that ran it died as it began")


def _is_of_this_worker(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return pid == MAIN_PID or (process.ppid() == MAIN_PID and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _recover_batch(child: str, reason: str, *, is_crash: bool) -> None:
    for task_id in list(Call.objects.filter(worker=child).order_by("id").values_list("task_id", flat=True)):
        if is_crash:
            recover_call(task_id, child, reason)
        else:
            sql.release_call(task_id, child, crashed=False)


def recover_call(task_id: str, worker: str, reason: str) -> None:
    """Run a call again whose process has died. After `max_crashes` such processes it fails as lost instead, in the same
    transaction, so that nobody claims it in between.
    """
    with transaction.atomic():
        crash_count = sql.release_call(task_id, worker, crashed=True)
        if crash_count is None:
            return  # it had ended
        call = Call.objects.get(task_id=task_id)
        message = Message.from_json(call.message)
        task = current_app.tasks.get(message.task)
        if crash_count < getattr(task, "max_crashes", 1):
            logger.warning("%s %s runs again: %s.", message.task, task_id, reason)
            publish_after_commit(message, adapt_datetime(call.enqueued_at))
            return
        times = f", as it did before, {crash_count} times in all" if crash_count > 1 else ""
        lost = ProcessDied(f"lost: {reason}{times}")
        context = Context(message.request())
        current_app.backend.mark_as_failure(task_id, lost, request=context)
    logger.error("%s %s is %s.", message.task, task_id, lost)
    signals.task_failure.send(
        sender=task,
        task_id=task_id,
        exception=lost,
        args=context.args,
        kwargs=context.kwargs,
        traceback=None,
        einfo=None,
    )


def may_begin_twice(task: object) -> bool:
    """Whether a call of this task may be run again after a run that did not come to its end."""
    return getattr(task, "max_crashes", None) != 1
