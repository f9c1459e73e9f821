"""The pages of jobs: the list, and each job live, with buttons that pause, resume, cancel or retry it."""

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

from handbell import Job, JobRefused, states

VIEW_JOB = "handbell.view_job"
CHANGE_JOB = "handbell.change_job"
JOBS_PER_PAGE = 50
MAX_PLOTTED_CHUNKS = 1_000
MAX_SHOWN_FAILURES = MAX_SHOWN_CHILDREN = 10
PLOT_WIDTH, PLOT_HEIGHT = 1000, 160  # in the units of the picture
ACTIONS: dict[str, Callable[[Job], None]] = {
    "pause": Job.pause,
    "resume": Job.resume,
    "cancel": Job.cancel,
    "retry": Job.retry_failed,
}


def for_viewers(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A page for those who may view jobs; nothing between it and them keeps a copy."""
    return require_GET(login_required(permission_required(VIEW_JOB, raise_exception=True)(never_cache(view))))


@for_viewers
def jobs(request: HttpRequest) -> HttpResponse:
    name = request.GET.get("name", "").replace("\0", "").strip()
    found = Job.objects.filter(name__icontains=name) if name else Job.objects.all()
    page = Paginator(found.defer("value_json", "stages", "error"), JOBS_PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "jobs.html", {"page": page, "name": name})


@for_viewers
def job(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "job.html", job_context(request, pk))


@for_viewers
def progress(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "fragments/job.html", job_context(request, pk))


@require_POST
@login_required
@permission_required(CHANGE_JOB, raise_exception=True)
def steer(request: HttpRequest, pk: int, action: str) -> HttpResponse:
    if action not in ACTIONS:
        raise Http404(action)
    try:
        ACTIONS[action](get_object_or_404(Job, pk=pk))
    except JobRefused as refusal:
        messages.warning(request, str(refusal))
    return redirect("job", pk)


def job_context(request: HttpRequest, pk: int) -> dict[str, Any]:
    """What the templates of a job's page need."""
    found = get_object_or_404(Job.objects.select_related("parent"), pk=pk)
    active = not found.finished
    actions = [
        ("pause", "Pause", active and not found.paused),
        ("resume", "Resume", active and found.paused),
        ("cancel", "Cancel", active),
        ("retry", "Retry failed items", found.status == states.FAILED and found.failed > 0),
    ]
    return {
        "job": found,
        "failures": list(found.failure_rows.all()[:MAX_SHOWN_FAILURES]),
        "chunks": plot_chunks(found),
        "children": found.children.all()[:MAX_SHOWN_CHILDREN],
        "actions": [(name, label) for name, label, possible in actions if possible],
        "may_steer": request.user.has_perm(CHANGE_JOB),
    }


def plot_chunks(job: Job) -> dict[str, Any]:
    """The sizes of the latest chunks, in the order in which they began, as points on a logarithmic scale."""
    rows = job.chunks.exclude(started_at=None).order_by("-started_at", "-first").values_list("count", "seconds")
    sizes = list(rows[:MAX_PLOTTED_CHUNKS])[::-1]
    if not sizes:
        return {}
    largest = max(count for count, _ in sizes)
    top = math.log10(largest) or 1.0
    step = PLOT_WIDTH / max(1, len(sizes) - 1)
    points = [
        (round(number * step, 1), round(PLOT_HEIGHT - PLOT_HEIGHT * math.log10(count) / top, 1))
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
        "width": PLOT_WIDTH,
        "height": PLOT_HEIGHT,
    }
