"""Revoking a call of a plain task: in the ledger if it waits, and through its worker if it runs."""

from celery import current_app
from celery import states as celery_states
from celery.app.task import Context
from django.db import transaction
from django_celery_results.models import TaskResult

from handbell import states
from handbell.common.polling import poll
from handbell.errors import CallRefused
from handbell.models import Call
from handbell.plain.message import Message

MAX_BATCH_WAIT_SECONDS, POLL_SECONDS = 1.0, 0.03


def revoke(task_id: str, *, terminate: bool = False) -> str:
    """Cancel a call. One that waits is cancelled at once, whatever becomes of its message; with `terminate`, one that
    runs is ended together with its process, by its worker.

    Returns the state that it is in now.

    Raises:
        CallRefused: no such call waits or runs, or it runs and is not to be terminated.
        kombu.exceptions.OperationalError: the broker does not answer, and the worker cannot be told.
    """
    if poll(lambda: not _has_not_begun(task_id), MAX_BATCH_WAIT_SECONDS, POLL_SECONDS) and _revoke_waiting(task_id):
        return states.CANCELLED
    if not Call.objects.filter(task_id=task_id).exists():
        raise CallRefused(
            f"No call {task_id} waits or runs. `manage.py handbell calls` lists calls; "
            "operations and launches have commands of their own."
        )
    if not terminate:
        raise CallRefused(f"Call {task_id} is not revoked: it runs. With --terminate its process is ended.")
    current_app.control.revoke(task_id, terminate=True)
    return states.RUNNING


def _has_not_begun(task_id: str) -> bool:
    """Whether a process has claimed it with others, and its turn comes in a moment, or it is given back."""
    claimed = Call.objects.filter(task_id=task_id, is_shared=True).exclude(claimed_by="")
    return claimed.exists() and TaskResult.objects.filter(task_id=task_id, status=celery_states.PENDING).exists()


def _revoke_waiting(task_id: str) -> bool:
    """Cancel a call that waits; whether it does."""
    with transaction.atomic():
        waiting = Call.objects.select_for_update().filter(task_id=task_id, claimed_by="").first()
        if waiting is not None:
            request = Context(Message.from_json(waiting.message).request())
            current_app.backend.mark_as_revoked(task_id, "revoked", request=request)
    return waiting is not None
