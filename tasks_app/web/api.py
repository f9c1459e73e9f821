"""The state of a piece of work as JSON, by the id that its call returned."""

from typing import Any

from celery import current_app
from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from handbell import states, status

READ = "django_celery_results.view_taskresult"


@require_GET
@login_required
@permission_required(READ, raise_exception=True)
@never_cache
def task(request: HttpRequest, task_id: str) -> JsonResponse:
    """The state of a task, an operation or a launch; `result` once it has succeeded, `error` once it has failed.

    The state is a word of `handbell.states`; an id that nobody knows is unknown, with status 404.
    """
    state = status(task_id)
    if state == states.UNKNOWN:
        return JsonResponse({"id": task_id, "state": state}, status=404)
    meta: dict[str, Any] = current_app.backend.get_task_meta(task_id, cache=False)
    answer = {"id": task_id, "state": state, "task": meta.get("task_name") or meta.get("name")}
    if state == states.SUCCEEDED:
        answer["result"] = meta["result"]
    elif state in states.WENT_WRONG:
        answer["error"] = f"{type(meta['result']).__name__}: {meta['result']}"
    return JsonResponse(answer)
