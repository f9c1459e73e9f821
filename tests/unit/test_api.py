"""The state of a piece of work as JSON: queued and unknown are two answers."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import current_app
from celery.app.task import Context
from django.contrib.auth.models import User
from django.test import Client

from tasks_app import tasks

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(make_user: Callable[..., User]) -> Client:
    found = Client()
    found.force_login(make_user("someone", "view_taskresult"))
    return found


def state(browser: Client, task_id: str) -> tuple[int, dict[str, Any]]:
    answer = browser.get(f"/api/tasks/{task_id}/")
    return answer.status_code, answer.json()


def test_a_task_is_queued_from_the_call_on_and_an_id_that_nobody_knows_is_unknown(browser: Client) -> None:
    result = tasks.fibonacci.delay(30)

    known = {"id": result.id, "state": "queued", "task": "tasks_app.tasks.fibonacci"}
    assert state(browser, result.id) == (200, known)
    assert state(browser, "nobody") == (404, {"id": "nobody", "state": "unknown"})


def test_the_end_of_a_task_is_told_with_what_came_of_it(browser: Client) -> None:
    good, bad = tasks.fibonacci.delay(30), tasks.fibonacci.delay(30)
    current_app.backend.mark_as_done(good.id, 832040, Context(id=good.id))
    current_app.backend.mark_as_failure(bad.id, ValueError("no"), request=Context(id=bad.id))

    assert state(browser, good.id)[1] == {
        "id": good.id,
        "state": "succeeded",
        "task": "tasks_app.tasks.fibonacci",
        "result": 832040,
    }
    assert state(browser, bad.id)[1]["error"] == "ValueError: no"


def test_operations_and_launches_are_told_of_too(browser: Client) -> None:
    operation, launch = tasks.increment_value.delay("a"), tasks.call_stuck_partner.launch(1)

    for task_id in (operation.id, launch.task_id):
        assert state(browser, task_id)[1]["state"] == "queued"


def test_only_who_may_see_results_is_answered(make_user: Callable[..., User]) -> None:
    stranger = Client()
    assert stranger.get("/api/tasks/x/").status_code == 302
    stranger.force_login(make_user("other"))
    assert stranger.get("/api/tasks/x/").status_code == 403
    assert stranger.post("/api/tasks/x/").status_code == 405
