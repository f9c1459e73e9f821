"""The home page: every workload with its form, started by a click and watched live."""

from collections.abc import Mapping
from typing import Any

from celery import current_app
from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from django_htmx.middleware import HtmxDetails
from kombu.exceptions import OperationalError

from handbell import BrokerUnavailable, require_broker
from tasks_app.models import Entry, Run
from tasks_app.queues import QUEUES
from tasks_app.throttle import TooManyStarts, count_start
from tasks_app.web.forms import FORMS, WorkloadForm
from tasks_app.workloads import WORKLOADS, Workload

START = "tasks_app.add_run"
WATCH = "tasks_app.view_run"
LATEST_ENTRIES = 8


class Request(HttpRequest):
    """As django_htmx's middleware passes it on."""

    htmx: HtmxDetails


@require_GET
@login_required
@permission_required(WATCH, raise_exception=True)
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    return page(request, {})


@require_POST
@login_required
@permission_required(START, raise_exception=True)
def start(request: Request, slug: str) -> HttpResponse:
    """Start a workload, and answer without waiting for the work."""
    if slug not in WORKLOADS:
        raise Http404(slug)
    form = FORMS[slug](request.POST, request=request)
    if form.is_valid():
        try:
            require_broker()
            count_start(request.user)  # type: ignore[arg-type]
            WORKLOADS[slug].start(form.inputs(), user=request.user)  # type: ignore[arg-type]
        except TooManyStarts as refusal:
            form.add_error(None, str(refusal))
            return refusal.as_status(answer(request, slug, form))
        except (BrokerUnavailable, ValueError) as error:
            form.add_error(None, str(error))
        except OperationalError as error:
            form.add_error(None, f"The broker does not take messages ({error}). Some tasks may have been sent.")
    return answer(request, slug, form)


def answer(request: Request, slug: str, form: WorkloadForm) -> HttpResponse:
    """What a form that was sent is answered with: its card, or without JavaScript the whole page."""
    if request.htmx:
        return render(request, "fragments/card.html", card(request, WORKLOADS[slug], form))
    return redirect("home") if form.is_valid() else page(request, {slug: form})


@require_GET
@login_required
@permission_required(WATCH, raise_exception=True)
@never_cache
def run(request: HttpRequest, pk: str) -> HttpResponse:
    found = get_object_or_404(Run.objects.select_related("started_by"), pk=pk)
    return render(request, "fragments/run.html", shown(found))


@require_GET
@login_required
@permission_required(WATCH, raise_exception=True)
@never_cache
def system(request: HttpRequest) -> HttpResponse:
    """Whether the broker and the workers answer."""
    try:
        require_broker()
        workers = sorted(name for reply in current_app.control.ping(timeout=0.5) or () for name in reply)
        context: dict[str, Any] = {"workers": [name.partition("@")[0] for name in workers]}
    except (BrokerUnavailable, OperationalError, OSError) as error:
        context = {"problem": str(error)}
    return render(request, "fragments/system.html", context)


def page(request: HttpRequest, sent: Mapping[str, WorkloadForm]) -> HttpResponse:
    """Every workload's card, with a form to fill in or the one that was sent."""
    cards = [card(request, work, sent.get(slug) or FORMS[slug](request=request)) for slug, work in WORKLOADS.items()]
    entries = Entry.objects.filter(live=True)[:LATEST_ENTRIES]
    return render(request, "home.html", {"cards": cards, "entries": entries, "queues": QUEUES})


def card(request: HttpRequest, workload: Workload, form: WorkloadForm) -> dict[str, Any]:
    latest = Run.objects.filter(workload=workload.slug).select_related("started_by").first()
    return {
        "workload": workload,
        "form": form,
        "may_start": request.user.has_perm(START),
        **(shown(latest) if latest else {}),
    }


def shown(run: Run) -> dict[str, Any]:
    """What a page shows of a run: its progress, and the verdict once it is done."""
    workload = WORKLOADS.get(run.workload)
    if workload is None:
        raise Http404(run.workload)
    progress, verdict = workload.outcome(run)
    return {"run": run, "progress": progress, "verdict": verdict, "live": workload.live(run)}
