"""Calls in views: with ATOMIC_REQUESTS they are part of the request's transaction."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from handbell.models import Call, Operation
from tasks_app.tasks import increment_value
from tests import plain
from tests.unit.conftest import Message

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]


def call(request: HttpRequest) -> HttpResponse:
    plain.add.delay(1, 2)
    increment_value.delay("visits")
    if "fail" in request.GET:
        raise ValueError("the view fails")
    return HttpResponse(str(connection.in_atomic_block))


@transaction.non_atomic_requests
def call_by_itself(request: HttpRequest) -> HttpResponse:
    return call(request)


urlpatterns = [path("call/", call), path("by-itself/", call_by_itself)]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    return Client(raise_request_exception=False)


def recorded() -> list[Any]:
    return [Call.objects.count(), Operation.objects.count()]


def test_a_view_that_fails_has_called_nothing(client: Client, sent: Callable[[], list[Message]]) -> None:
    assert client.get("/call/?fail").status_code == 500
    assert recorded() == [0, 0]
    assert sent() == []


def test_a_view_that_succeeds_sends_after_its_commit(client: Client, sent: Callable[[], list[Message]]) -> None:
    assert client.get("/call/").content == b"True"
    assert recorded() == [1, 1]
    assert {message.queue for message in sent()} == {"cpu", "serial"}


def test_a_view_outside_of_the_transaction_calls_at_once(client: Client, sent: Callable[[], list[Message]]) -> None:
    assert client.get("/by-itself/?fail").status_code == 500
    assert recorded() == [1, 1]
    assert len(sent()) == 2
