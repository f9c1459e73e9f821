"""Calls that are written together: all of them or none, each as if it had been written alone."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import chord, current_app, group, signals
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django_celery_results.models import TaskResult
from kombu.exceptions import EncodeError

from handbell import bulk
from handbell.models import Call, Doorbell, Operation
from handbell.plain import enqueue
from handbell.plain.message import Message
from tests import plain
from tests.unit.conftest import Message as Sent

add: Any = plain.add


def rows(task_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is in the database of a call, but for what is different of each."""
    call: dict[str, Any] = dict(Call.objects.values().get(task_id=task_id))
    result: dict[str, Any] = dict(TaskResult.objects.values().get(task_id=task_id))
    for name in ("id", "task_id", "enqueued_at", "send_after"):
        call.pop(name)
    for name in ("id", "task_id", "date_created", "date_done"):
        result.pop(name)
    return {**call, "message": decoded(call["message"])}, result


def decoded(text: str) -> dict[str, Any]:
    message = Message.from_json(text)
    changing = {"id", "root_id", "correlation_id", "expires", "handbell_enqueued_at"}
    return {
        "body": message.body,
        "headers": {name: value for name, value in message.headers.items() if name not in changing},
        "options": {**message.options, "headers": None, "correlation_id": None, "expiration": None},
    }


@pytest.mark.django_db
def test_they_are_written_at_the_end_of_the_block_as_if_each_had_been_written_alone() -> None:
    options: dict[str, Any] = {"priority": 4, "shadow": "another name", "expires": 60}
    with bulk():
        together = [add.apply_async((number, 1), task_id=f"t-{number}", **options) for number in range(3)]
        assert not Call.objects.exists()
    alone = add.apply_async((2, 1), task_id="t-9", **options)

    assert [call.task_id for call in Call.objects.all()] == [*(result.id for result in together), alone.id]
    assert rows("t-2") == rows("t-9")


@pytest.mark.django_db
@pytest.mark.parametrize("calls", [3, 25])
def test_many_take_as_many_statements_as_a_few(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    monkeypatch.setattr(enqueue, "MAX_GATHERED_CALLS", 10)
    with CaptureQueriesContext(connection) as queries, bulk():
        for number in range(calls):
            add.delay(number, 1)
    parts = -(-calls // 10)
    per_part = 1 if connection.vendor == "postgresql" else 3
    written = [it for it in queries if "handbell_call" in it["sql"]]

    assert Call.objects.count() == TaskResult.objects.count() == calls
    assert len(written) <= parts * per_part


@pytest.mark.django_db
def test_a_block_that_raises_calls_nothing(monkeypatch: pytest.MonkeyPatch, sent: Callable[[], list[Sent]]) -> None:
    monkeypatch.setattr(enqueue, "MAX_GATHERED_CALLS", 2)
    with pytest.raises(ZeroDivisionError), bulk():
        for number in (1, 2, 3, 0):
            add.delay(1 // number, 1)

    assert not Call.objects.exists()
    assert not TaskResult.objects.exists()
    assert sent() == []
    add.delay(1, 1)
    assert Call.objects.count() == 1


@pytest.mark.django_db
def test_a_block_that_is_rolled_back_without_an_error_calls_nothing(sent: Callable[[], list[Sent]]) -> None:
    with bulk():
        add.delay(1, 1)
        transaction.set_rollback(True)

    assert not Call.objects.exists()
    assert sent() == []


@pytest.mark.django_db
def test_large_calls_are_written_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "MAX_GATHERED_CHARACTERS", 50_000)
    with bulk():
        written = [Call.objects.count() for _ in range(4) if plain.take.delay(0, "x" * 20_000)]

    assert written == [0, 0, 3, 3]
    assert Call.objects.count() == 4


@pytest.mark.django_db
def test_one_that_cannot_be_called_leaves_none_of_a_group() -> None:
    with pytest.raises(EncodeError):
        group(add.s(1, 1), add.s(1, object())).delay()
    assert not Call.objects.exists()


@pytest.mark.django_db
def test_what_an_inner_transaction_has_called_is_rolled_back_with_it(sent: Callable[[], list[Sent]]) -> None:
    with bulk():
        add.delay(1, 1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            add.delay(2, 2)
            group(add.s(3, 3), add.s(4, 4)).delay()
            raise ZeroDivisionError
        with transaction.atomic():
            add.delay(5, 5)

    assert sorted(message.args for message in sent()) == [[1, 1], [5, 5]]


@pytest.mark.django_db
def test_ids_that_have_been_called_and_have_not_ended_are_left_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    add.apply_async((1, 1), task_id="old")
    with bulk():
        for number, task_id in enumerate(["new", "old", "new", "newer"]):
            add.apply_async((number, 7), task_id=task_id)

    assert [call.task_id for call in Call.objects.all()] == ["old", "new", "newer"]
    messages = {call.task_id: Message.from_json(call.message).request() for call in Call.objects.all()}
    assert {task_id: message["args"] for task_id, message in messages.items()} == {
        "old": [1, 1],
        "new": [0, 7],
        "newer": [3, 7],
    }
    assert [record.args for record in caplog.records if "not called again" in record.message] == [
        (add.name, "old"),
        (add.name, "new"),
    ]


@pytest.mark.django_db
def test_a_result_that_has_ended_is_that_of_its_new_call() -> None:
    add.apply_async((1, 1), task_id="again")
    Call.objects.all().delete()
    TaskResult.objects.update(status="SUCCESS", result="2")
    with bulk():
        add.apply_async((2, 2), task_id="again")
        add.delay(1, 1)

    assert TaskResult.objects.get(task_id="again").status == "PENDING"
    assert Call.objects.count() == 2


@pytest.mark.django_db
def test_other_kinds_of_tasks_are_called_at_once() -> None:
    from tasks_app.tasks import increment_value  # noqa: PLC0415

    with bulk():
        increment_value.delay("visits")
        assert Operation.objects.count() == 1


@pytest.mark.django_db
def test_the_parts_of_a_group_and_of_a_chord_are_written_together() -> None:
    for canvas in (group(add.s(number, 1) for number in range(20)), chord([add.s(1, 1)] * 20, plain.total.s())):
        Call.objects.all().delete()
        with CaptureQueriesContext(connection) as queries:
            canvas.apply_async()
        assert Call.objects.count() == 20
        assert len([it for it in queries if "INSERT INTO handbell_call" in it["sql"]]) == 1


@pytest.mark.django_db
def test_a_doorbell_rings_once_in_a_transaction_and_not_for_what_was_rolled_back(
    sent: Callable[[], list[Sent]],
) -> None:
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            add.delay(1, 1)
            raise ZeroDivisionError
        for number in range(3):
            add.delay(number, 1)
        hooks: list[Any] = connection.run_on_commit
        assert len(hooks) == 1
        assert hooks[0][1].__self__.name == f"queue:{current_app.conf.task_default_queue}"
    assert len(sent()) == 3
    assert Doorbell.objects.filter(name__startswith="queue:").count() == 1


@pytest.mark.django_db
def test_a_call_that_a_signal_makes_while_others_are_gathered_is_one_of_them() -> None:
    def call_another(body: Any, **_: Any) -> None:
        if body[0][0] > 0:
            add.delay(body[0][0] - 1, 1)

    signals.before_task_publish.connect(call_another)
    try:
        with bulk():
            add.delay(2, 1)
            assert not Call.objects.exists()
    finally:
        signals.before_task_publish.disconnect(call_another)
    assert Call.objects.count() == 3
