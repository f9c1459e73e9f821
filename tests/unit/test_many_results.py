"""The results of a group are read many at a time, whatever kinds of tasks it holds."""

import time
from typing import Any

import pytest
from celery import group
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, GroupResult
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_celery_results.models import TaskResult

from handbell import testing
from handbell.celery import read_results
from tasks_app.tasks import increment_value
from tests import plain

add: Any = plain.add


@pytest.mark.django_db
def test_a_group_gets_all_of_its_results_in_their_order_with_a_few_statements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_results, "MAX_IDS", 10)
    result: Any = group(add.s(number, 1) for number in range(25)).delay()
    testing.run_all()
    with CaptureQueriesContext(connection) as queries:
        values = result.get(timeout=30, disable_sync_subtasks=False)

    assert values == [number + 1 for number in range(25)]
    assert len(queries) == 3


@pytest.mark.django_db
def test_operations_and_nested_groups_are_read_too() -> None:
    operation: Any = increment_value.delay("visits")
    nested: Any = group(add.s(1, 1), add.s(2, 2)).delay()
    result = GroupResult("g", [add.delay(3, 3), operation, nested])
    testing.run_all()

    assert result.get(timeout=30, disable_sync_subtasks=False) == [6, 1, [2, 4]]


@pytest.mark.django_db
def test_what_fails_is_raised_and_what_does_not_end_is_not_waited_for_for_ever() -> None:
    result: Any = GroupResult("g", [add.delay(1, 1), plain.fail.delay("no luck")])
    testing.run_all()
    with pytest.raises(ValueError, match="no luck"):
        result.get(timeout=30, disable_sync_subtasks=False)
    assert str(result.get(propagate=False, disable_sync_subtasks=False)[1]) == "no luck"

    waiting = GroupResult("g", [*result.results[:1], add.delay(1, 1), AsyncResult("nobody")])
    started = time.monotonic()
    with pytest.raises(CeleryTimeoutError, match="2 of 3 tasks had not ended in time"):
        waiting.get(timeout=0.05, disable_sync_subtasks=False)
    assert time.monotonic() - started < 10


@pytest.mark.django_db
def test_each_is_what_a_single_result_is() -> None:
    results: list[Any] = [add.delay(1, 2), plain.fail.delay("no"), increment_value.delay("visits")]
    testing.run_all()
    backend: Any = add.backend
    many = dict(backend.get_many([result.id for result in results], timeout=5))
    for result in results:
        alone = backend._get_task_meta_for(result.id)
        assert {**many[result.id], "result": None} == {**alone, "result": None}
        assert repr(many[result.id]["result"]) == repr(alone["result"])


@pytest.mark.django_db
def test_it_looks_no_further_than_what_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_results, "MAX_IDS", 2)
    ids = [add.delay(number, 0).id for number in range(5)]
    TaskResult.objects.filter(task_id__in=[ids[0], ids[2], ids[4]]).update(status="SUCCESS", result="7")
    backend: Any = add.backend
    assert [task_id for task_id, _ in backend._ended_of(ids, looks_at_all=False)] == [ids[0]]
    assert [task_id for task_id, _ in backend.get_many(ids, max_iterations=1)] == [ids[0], ids[2], ids[4]]
    assert list(backend.get_many([], timeout=1)) == []
