"""Where a piece of work stands, in our words, by the id that its call returned."""

from typing import Any

from celery import current_app
from celery import states as celery_states
from celery.result import AsyncResult
from django_celery_results.models import TaskResult

from handbell import states
from handbell.arguments import shown
from handbell.celery.backend import DatabaseBackend
from handbell.common.codec import storable
from handbell.models import Call, Launch, Operation


def status(result: AsyncResult[Any] | str) -> str:
    """The state of a task, an operation or a launch: one of the words of `handbell.states`.

    Unlike Celery's PENDING it tells work that is `queued` from what nobody has ever called, which is `unknown`, and
    from a task whose place others have taken that have yet to be called, which is `waiting`.

    Raises:
        TypeError: it is neither a result nor an id.
    """
    task_id = getattr(result, "id", result)
    if not isinstance(task_id, str):
        raise TypeError(f"status() takes a result or its id, not {shown(result)}.")
    task_id = storable(task_id)
    if not isinstance(current_app.backend, DatabaseBackend):
        state: str | None = current_app.AsyncResult(task_id).state
        return states.UNKNOWN if state == celery_states.PENDING else states.word(str(state))
    for model in (Operation, Launch):
        if (found := model.objects.filter(task_id=task_id).values_list("status", flat=True).first()) is not None:
            return str(found)
    state = TaskResult.objects.filter(task_id=task_id).values_list("status", flat=True).first()
    if state is None:
        return states.UNKNOWN
    if state == celery_states.PENDING and not Call.objects.filter(task_id=task_id).exists():
        return states.WAITING
    return states.word(state)
