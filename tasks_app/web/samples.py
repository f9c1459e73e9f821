"""Real pages to scrape without leaving the machine: the documentation of the standard library, rendered by pydoc.

They are public and show nothing of the project. Only the modules in SAMPLES are offered: rendering a page imports
its module, and these do nothing when imported.
"""

import pydoc
import threading
from functools import lru_cache
from importlib import import_module

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from tasks_app.workloads.words import SAMPLES

_one_at_a_time = threading.Lock()  # pydoc is not made for several threads


@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "samples.html", {"modules": SAMPLES})


@require_GET
def sample(request: HttpRequest, name: str) -> HttpResponse:
    if name not in SAMPLES:
        raise Http404(f"There is no sample called {name}.")
    return HttpResponse(rendered(name))


@lru_cache(maxsize=len(SAMPLES))
def rendered(name: str) -> str:
    with _one_at_a_time:
        return pydoc.HTMLDoc().page(name, pydoc.HTMLDoc().document(import_module(name), name))
