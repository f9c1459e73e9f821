"""An entry's page: a button counts a visit, which is answered at once, and the numbers are shown when they arrive."""

from typing import Any

from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods
from django_celery_results.models import TaskResult
from kombu.exceptions import OperationalError

from handbell import BrokerUnavailable, require_broker, states
from tasks_app.models import Entry
from tasks_app.throttle import TooManyStarts, count_start
from tasks_app.workloads.visits import visit

READ = "tasks_app.view_entry"


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
@permission_required(READ, raise_exception=True)
@never_cache
def entry(request: HttpRequest, pk: int) -> HttpResponse:
    context: dict[str, Any] = {"entry": get_object_or_404(Entry, pk=pk), "task_id": request.GET.get("visit", "")}
    if request.method == "POST":
        try:
            require_broker()
            count_start(request.user)  # type: ignore[arg-type]
            query = urlencode({"visit": visit(pk)})
            return redirect(f"{reverse('entry', args=[pk])}?{query}")  # so that a reload counts nothing
        except TooManyStarts as refusal:
            context["problem"] = f"This visit is not counted. {refusal}"
            return refusal.as_status(render(request, "entry.html", context))
        except (BrokerUnavailable, OperationalError) as error:
            context["problem"] = f"This visit is not counted. {error}"
    return render(request, "entry.html", context)


@require_GET
@login_required
@permission_required(READ, raise_exception=True)
@never_cache
def numbers(request: HttpRequest, pk: int) -> HttpResponse:
    """The entry's numbers, and whether the visit with the given task id is still at work on them."""
    task_id = request.GET.get("task", "")
    task = TaskResult.objects.filter(task_id=task_id).only("status").first()
    state = states.word(task.status) if task else states.QUEUED
    context = {
        "entry": get_object_or_404(Entry, pk=pk),
        "task_id": task_id,
        "waiting": bool(task_id) and state not in states.FINISHED,
        "failed": state == states.FAILED,
    }
    return render(request, "fragments/numbers.html", context)
