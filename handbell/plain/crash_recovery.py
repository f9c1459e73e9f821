"""What happens to the calls of a process that died, or of a worker that leaves: they run again, or are lost."""

import logging
from collections.abc import Collection, Iterable

from celery import current_app, signals
from celery.app.task import Context
from celery.worker.request import Request
from django.db import transaction

from handbell.common.claims import claim_owner
from handbell.common.doorbell import adapt_datetime
from handbell.common.write_backlog import write_backlog
from handbell.errors import ProcessDied
from handbell.models import Call
from handbell.models.owner import rows_claimed_by
from handbell.plain import sql
from handbell.plain.batch_slots import end_of_process
from handbell.plain.message import Message
from handbell.plain.outbox import publish_after_commit

_expected_deaths: set[int] = set()
logger = logging.getLogger(__name__)


def release_calls(claimed_by: str, tokens: Collection[int] | None = None) -> None:
    """When a worker leaves: give back what is claimed by it or by one of its processes, without counting a crash; or
    what was claimed under these tokens, for nobody knows how it ended. What must not begin a second time is lost.
    """
    reason = "its worker was told to stop while it ran" if tokens is None else "the database has forgotten how it ended"
    for _, task_id, token, name in _claims(claimed_by, tokens):
        if may_begin_twice(current_app.tasks.get(name)):
            sql.release_call(task_id, token, crashed=False)
        else:
            recover_call(task_id, token, reason)


def recover_calls(claimed_by: str, reason: str, running: int | None = None) -> None:
    """Give back what was claimed by a process that is dead, or by all processes of a worker that is. If it is known
    which call was running, by its id, no other counts the crash.
    """
    claims = _claims(claimed_by)
    is_known = running in {pk for pk, *_ in claims}
    for pk, task_id, token, _ in claims:
        if not is_known or pk == running:
            recover_call(task_id, token, reason)
        else:
            sql.release_call(task_id, token, crashed=False)


def call_owners() -> Iterable[str]:
    """By whom calls are claimed."""
    return Call.objects.exclude(claimed_by="").order_by().values_list("claimed_by", flat=True).distinct()


def _claims(claimed_by: str, tokens: Collection[int] | None = None) -> list[tuple[int, str, int | None, str]]:
    """The ids, the token and the task's name of each call that is claimed by this process, or by this worker's."""
    claimed = rows_claimed_by(Call.objects.exclude(claimed_by=""), claimed_by, tokens).order_by("id")
    found = claimed.values_list("pk", "task_id", "claim_token", "message")
    return [(pk, task_id, token, Message.from_json(message).task) for pk, task_id, token, message in found]


def expect_death(pid: int) -> None:
    """The process of this worker with this id is ended because of one call; the others that it has claimed do not
    count that as a crash.
    """
    _expected_deaths.add(pid)


def recover_from_death(request: Request, error: BaseException) -> None:
    """A child process has died while it ran a task: what it had claimed is given back, by the write backlog."""
    how = f"it called sys.exit({error})" if isinstance(error, SystemExit) else str(error).rstrip(".")
    reason, pid = f"the process that ran it died: {how}", int(request.worker_pid or 0)
    is_expected = pid in _expected_deaths
    _expected_deaths.discard(pid)
    child, (running, results) = claim_owner(pid), end_of_process(pid)

    def recover() -> None:
        if results:
            sql.finish_calls(results)
        if is_expected:
            release_calls(child)
        else:
            recover_calls(child, reason, running)

    write_backlog.add(recover)


def recover_call(task_id: str, token: int | None, reason: str) -> None:
    """Run a call again whose process has died. After `max_crashes` such processes it fails as lost instead, in the same
    transaction, so that nobody claims it in between.
    """
    with transaction.atomic():
        crash_count = sql.release_call(task_id, token, crashed=True)
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
