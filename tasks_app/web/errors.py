"""The page for when something is broken: the database is named if it is that, and no trace is shown."""

import sys

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string


def server_error(request: HttpRequest) -> HttpResponse:
    database_down = isinstance(sys.exception(), DatabaseError | InterfaceError)
    page = render_to_string("broken.html", {"database_down": database_down})
    return HttpResponse(page, status=503 if database_down else 500)
