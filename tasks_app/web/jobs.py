"""A job's page: how far it is, the sizes its chunks took, what failed; live, with the handles to steer it."""

import math
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from tasks_app import states
from tasks_app.errors import JobRefused
from tasks_app.models import Job

WATCH = "tasks_app.view_job"
STEER = "tasks_app.change_job"
PER_PAGE = 50
PLOTTED, SHOWN_FAILURES = 1_000, 10
WIDTH, HEIGHT = 1000, 160
ACTIONS: dict[str, Callable[[Job], None]] = {
    "pause": Job.pause,
    "resume": Job.resume,
    "cancel": Job.cancel,
    "retry": Job.retry_failed,
}


def watching(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A page that is read by whoever may see jobs, and shows what is so now."""
    return require_GET(login_required(permission_required(WATCH, raise_exception=True)(never_cache(view))))


@watching
def jobs(request: HttpRequest) -> HttpResponse:
    name = request.GET.get("name", "").replace("\0", "").strip()
    found = Job.objects.filter(name__icontains=name) if name else Job.objects.all()
    page = Paginator(found.defer("value_json", "stages", "error"), PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "jobs.html", {"page": page, "name": name})


@watching
def job(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "job.html", shown(request, pk))


@watching
def progress(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "fragments/job.html", shown(request, pk))


@require_POST
@login_required
@permission_required(STEER, raise_exception=True)
def steer(request: HttpRequest, pk: int, action: str) -> HttpResponse:
    if action not in ACTIONS:
        raise Http404(action)
    try:
        ACTIONS[action](get_object_or_404(Job, pk=pk))
    except JobRefused as refusal:
        messages.warning(request, str(refusal))
    return redirect("job", pk)


def shown(request: HttpRequest, pk: int) -> dict[str, Any]:
    found = get_object_or_404(Job.objects.select_related("parent"), pk=pk)
    active = not found.finished
    actions = [
        ("pause", "Pause", active and not found.paused),
        ("resume", "Resume", active and found.paused),
        ("cancel", "Cancel", active),
        ("retry", "Retry what failed", found.status == states.FAILED and found.failed > 0),
    ]
    return {
        "job": found,
        "state": "paused" if found.paused and active else found.status,
        "failures": list(found.failure_rows.all()[:SHOWN_FAILURES]),
        "chunks": plot(found),
        "children": found.children.all()[:SHOWN_FAILURES],
        "actions": [(name, label) for name, label, possible in actions if possible],
        "may_steer": request.user.has_perm(STEER),
    }


def plot(job: Job) -> dict[str, Any]:
    """The sizes of the latest chunks in the order they began, by a logarithmic scale, as points of a picture."""
    rows = job.chunks.exclude(started_at=None).order_by("-started_at", "-first").values_list("count", "seconds")
    sizes = list(rows[:PLOTTED])[::-1]
    if not sizes:
        return {}
    largest = max(count for count, _ in sizes)
    top = math.log10(largest) or 1.0
    step = WIDTH / max(1, len(sizes) - 1)
    points = [
        (round(number * step, 1), round(HEIGHT - HEIGHT * math.log10(count) / top, 1))
        for number, (count, _) in enumerate(sizes)
    ]
    times = sorted(seconds for _, seconds in sizes if seconds is not None)
    return {
        "points": points,
        "line": " ".join(f"{x},{y}" for x, y in points),
        "number": len(sizes),
        "smallest": min(count for count, _ in sizes),
        "largest": largest,
        "median_seconds": times[len(times) // 2] if times else None,
        "width": WIDTH,
        "height": HEIGHT,
    }
