"""Results live in the database, each with the queue that its task came from."""

import json

import pytest
from celery import current_app
from celery.app.task import Context
from celery.result import AsyncResult
from django_celery_results.models import TaskResult

from handbell.celery.backend import DatabaseBackend

pytestmark = pytest.mark.django_db


def store(task_id: str, **request: object) -> None:
    current_app.backend.store_result(task_id, 7, "SUCCESS", request=Context(id=task_id, **request))


def test_the_results_are_kept_by_this_backend() -> None:
    assert isinstance(current_app.backend, DatabaseBackend)


def test_a_result_knows_the_queue_that_its_task_came_from() -> None:
    store("one", delivery_info={"routing_key": "high"}, task="a task", hostname="w1@here")

    result: AsyncResult[int] = AsyncResult("one")
    assert (result.get(), result.state, result.queue) == (7, "SUCCESS", "high")
    assert result.worker == "w1@here"
    assert json.loads(TaskResult.objects.get(task_id="one").meta)["queue"] == "high"


def test_a_result_without_a_delivery_has_no_queue() -> None:
    store("one", delivery_info=None)
    store("two", delivery_info={"is_eager": True})
    current_app.backend.store_result("three", 7, "SUCCESS")

    for task_id in ("one", "two", "three"):
        assert AsyncResult(task_id).get() == 7
        assert AsyncResult(task_id).queue is None


def test_a_result_that_nobody_stored_is_pending() -> None:
    assert AsyncResult("unknown").state == "PENDING"
    assert AsyncResult("unknown").queue is None


def test_an_error_is_stored_with_its_type_and_raised_again() -> None:
    current_app.backend.store_result("bad", ValueError("no", 1), "FAILURE", request=Context(id="bad"))

    row = TaskResult.objects.get(task_id="bad")
    assert json.loads(row.result)["exc_type"] == "ValueError"
    with pytest.raises(ValueError, match="no"):
        AsyncResult("bad").get()
