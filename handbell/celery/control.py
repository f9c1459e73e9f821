"""Celery's remote control commands, for calls that a process has claimed with others, too: `revoke` and `terminate`,
`rate_limit` and `time_limit`, `active` and `query_task`.

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

from handbell.common.claims import MAIN_PID, WORKER_ID
from handbell.common.time_limits import send_signal
from handbell.common.write_backlog import write_backlog
from handbell.models import Call
from handbell.models.owner import rows_claimed_by
from handbell.plain.batch_slots import running_batches
from handbell.plain.batch_watch import shown_calls
from handbell.plain.batching import RUN_BATCH, announce_revocation, changed_limits
from handbell.plain.crash_recovery import expect_death
from handbell.plain.message import Message

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


@celery_control.control_command(
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
def rate_limit(state: Any, task_name: str, rate_limit: Any, **kwargs: Any) -> Any:
    """Tell worker(s) to modify the rate limit for a task by type."""
    answer = celery_control.rate_limit(state, task_name, rate_limit, **kwargs)  # type: ignore[attr-defined]
    _change_limits(state, task_name, rate_limit=bool(getattr(state.app.tasks.get(task_name), "rate_limit", None)))
    return answer


@celery_control.control_command(
    args=[("task_name", str), ("soft_secs", float), ("hard_secs", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(state: Any, task_name: Any = None, hard: Any = None, soft: Any = None, **kwargs: Any) -> Any:
    """Tell worker(s) to modify the time limit for task by type."""
    answer = celery_control.time_limit(state, task_name, hard, soft, **kwargs)  # type: ignore[attr-defined]
    _change_limits(state, task_name, time_limits=(hard, soft))
    return answer


def _change_limits(state: Any, task_name: str, **limits: Any) -> None:
    if task_name in state.app.tasks:
        changed_limits.set(task_name, {**(changed_limits.get(task_name) or {}), **limits})


@celery_control.inspect_command(alias="dump_active")
def active(state: Any, safe: bool = False, **kwargs: Any) -> Any:
    """List of tasks currently being executed."""
    found = celery_control.active(state, safe=safe, **kwargs)  # type: ignore[attr-defined]
    return [*(info for info in found if info["name"] != RUN_BATCH), *shown_calls().values()]


@celery_control.inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: Any, ids: Any, **kwargs: Any) -> Any:
    """Query for task information by id."""
    found = celery_control.query_task(state, ids, **kwargs)  # type: ignore[attr-defined]
    shown = {info["id"]: ("active", info) for info in shown_calls().values() if info["id"] in (maybe_list(ids) or ())}
    return {**shown, **found}


def revoke_batched(task_ids: Collection[str], signal_number: int | None) -> None:
    """End calls that a process of this worker has claimed with others. Those that wait for their turn are not begun.
    One that runs goes on, as in Celery, or is ended with its process, if there is a signal for that; the others of
    that process run again, without having counted a crash.
    """
    claimed = rows_claimed_by(Call.objects.filter(is_shared=True).exclude(claimed_by=""), WORKER_ID)
    for call in claimed.filter(task_id__in=task_ids):
        if (pid := _process_running(call)) and (signal_number is None or pid == MAIN_PID):
            continue  # it goes on, as what a thread runs always does
        _end_as_revoked(call, signal_number)
        announce_revocation()
        if signal_number is not None and (pid := _process_running(call)):
            logger.info("Terminating %s (%s)", call.task_id, signal_number)
            expect_death(pid)
            send_signal(pid, signal_number)


def _process_running(call: Call) -> int | None:
    return next((batch.pid for _, batch in running_batches() if batch.call == call.pk), None)


def _end_as_revoked(call: Call, signal_number: int | None) -> None:
    message = Message.from_json(call.message)
    request = Context(message.request())
    reason = "revoked" if signal_number is None else "terminated"
    current_app.backend.mark_as_revoked(call.task_id, reason, request=request)
    task = current_app.tasks.get(message.task)
    signals.task_revoked.send(
        sender=task, request=request, terminated=signal_number is not None, signum=signal_number, expired=False
    )
