"""The project's addresses, and one that calls a plain task: what a web server does under faults."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from tests.faults.workload import work


def call(request: HttpRequest, task_id: str) -> HttpResponse:
    work.apply_async((task_id, 0.0), task_id=task_id)
    return HttpResponse(status=202)


urlpatterns = [path("faults/call/<str:task_id>", call), path("", include("project.urls"))]
