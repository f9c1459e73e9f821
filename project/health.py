"""`/healthz`, for load balancers: the web server answers. It says nothing about anything else.

A middleware, before all that look at the request: load balancers ask by address, and every other page refuses what is
not in ALLOWED_HOSTS.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

ADDRESS = "/healthz"
METHODS = ["GET", "HEAD"]


def answer_health_checks(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def answer(request: HttpRequest) -> HttpResponse:
        if request.path_info != ADDRESS:
            return get_response(request)
        if request.method not in METHODS:
            return HttpResponseNotAllowed(METHODS)
        return HttpResponse("ok", content_type="text/plain", headers={"Cache-Control": "no-store"})

    return answer
