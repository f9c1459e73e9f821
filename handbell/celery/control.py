"""Celery's remote control commands `revoke` and `terminate`, for calls that a process has claimed with others, too.

Celery knows the messages that its processes run. The message of such a call is a doorbell, so Celery does not find it.
"""

import logging
from collections.abc import Collection
from typing import Any

from celery import current_app, signals
from celery.app.task import Context
from celery.platforms import signals as system_signals
from celery.utils.functional import maybe_list
from celery.worker import control as celery_control

from handbell.common.time_limits import WorkKind, running_work, send_signal
from handbell.common.worker_id import MAIN_PID, child_claimant
from handbell.models import Call
from handbell.plain.batching import announce_revocation
from handbell.plain.crash_recovery import expect_death
from handbell.plain.message import Message
from handbell.plain.write_backlog import write_backlog

logger = logging.getLogger(__name__)


@celery_control.control_command(
    variadic="task_id",
    signature="[id1 [id2 [... [idN]]]]",
)
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
    """Revoke task by task id (or list of ids)."""
    answer = celery_control.revoke(state, task_id, terminate, signal, **kwargs)  # type: ignore[attr-defined]
    number = system_signals.signum(signal or "SIGTERM") if terminate else None
    write_backlog.add(lambda: revoke_batched(maybe_list(task_id) or [], number))
    return answer


@celery_control.control_command(
    name="terminate",
    variadic="task_id",
    args=[("signal", str)],
    signature="<signal> [id1 [id2 [... [idN]]]]",
)
def terminate_tasks(state: Any, signal: Any, task_id: Any, **kwargs: Any) -> Any:
    """Terminate task by task id (or list of ids)."""
    return revoke(state, task_id, terminate=True, signal=signal)


def revoke_batched(task_ids: Collection[str], signal_number: int | None) -> None:
    """End calls that a process of this worker has claimed with others. Those that wait for their turn are not begun.
    One that runs goes on, as in Celery, or is ended with its process, if there is a signal for that; the others of
    that process run again, without having counted a crash.
    """
    in_pool = Call.objects.filter(worker__startswith=child_claimant("")).exclude(worker=child_claimant(MAIN_PID))
    for call in in_pool.filter(task_id__in=task_ids):
        if signal_number is None and _process_running(call):
            continue
        _end_as_revoked(call, signal_number)
        announce_revocation()
        if signal_number is not None and (pid := _process_running(call)):
            logger.info("Terminating %s (%s)", call.task_id, signal_number)
            expect_death(pid)
            send_signal(pid, signal_number)


def _process_running(call: Call) -> int | None:
    return next((work.pid for work in running_work(WorkKind.CALL) if work.id == call.pk), None)


def _end_as_revoked(call: Call, signal_number: int | None) -> None:
    message = Message.from_json(call.message)
    request = Context(message.request())
    reason = "revoked" if signal_number is None else "terminated"
    current_app.backend.mark_as_revoked(call.task_id, reason, request=request)
    task = current_app.tasks.get(message.task)
    signals.task_revoked.send(
        sender=task, request=request, terminated=signal_number is not None, signum=signal_number, expired=False
    )
