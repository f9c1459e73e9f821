"""AsyncResult works for operations as for any task: states, values, errors raised again, tracebacks."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app, states
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult

from handbell import serial_task
from handbell.models import Operation
from handbell.serial import lanes
from handbell.testing import run_operations
from tests.lanes_app.tables import operation, state

pytestmark = pytest.mark.django_db


class Declined(Exception):
    """An error with more than a message."""

    def __init__(self, amount: int, reason: str) -> None:
        super().__init__(amount, reason)
        self.amount, self.reason = amount, reason


class Picky(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


@serial_task
def give_back(value: Any) -> Any:
    return value


@serial_task
def decline(amount: int) -> None:
    raise Declined(amount, "no cover")


@serial_task
def be_picky() -> None:
    raise Picky(code=3)


@serial_task
def divide(by: int) -> float:
    return 1 / by


@serial_task(external=True)
def look_at_yourself(task_id: str) -> list[str]:
    return [AsyncResult(task_id).state, Operation.objects.get(task_id=task_id).status]


VALUES = [None, 0, 1, True, 2**80, -1.5, "text ✓ \0", [1, [2]], {"a": {"b": None}}, ""]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_result_is_what_was_returned(value: Any) -> None:
    result = give_back.delay(value)
    run_operations()

    assert result.get(timeout=5) == value
    assert type(result.get()) is type(value)
    assert result.successful()
    assert result.date_done is not None


def test_the_states_an_operation_passes_through() -> None:
    result = divide.delay(1)
    assert state(result) == "PENDING"
    assert not result.ready()

    Operation.objects.update(status="running")
    assert state(result) == states.STARTED
    assert not result.ready()

    Operation.objects.update(status="queued")
    run_operations()
    assert state(result) == states.SUCCESS
    assert result.ready()


def test_an_external_operation_is_started_while_it_runs() -> None:
    result = look_at_yourself.apply_async(("self",), task_id="self")

    run_operations()

    assert result.get() == [states.STARTED, "running"]


def test_an_unknown_id_is_pending() -> None:
    assert AsyncResult(str(uuid.uuid4())).state == states.PENDING


def test_get_raises_the_original_error_again() -> None:
    result = decline.delay(30)
    run_operations()

    with pytest.raises(Declined) as raised:
        result.get(timeout=5)

    assert (raised.value.amount, raised.value.reason) == (30, "no cover")
    assert result.state == states.FAILURE
    assert isinstance(result.get(propagate=False), Declined)


def test_an_error_that_cannot_be_made_again_is_raised_as_the_closest_thing() -> None:
    result = be_picky.delay()
    run_operations()

    with pytest.raises(Exception, match="code 3"):
        result.get(timeout=5)


def test_the_traceback_names_the_line_and_nothing_of_the_machinery_after_it() -> None:
    result = divide.delay(0)
    run_operations()

    assert str(result.traceback).rstrip().endswith("ZeroDivisionError: division by zero")
    assert "return 1 / by" in str(result.traceback)
    assert "During handling of the above exception" not in str(result.traceback)


def test_a_cancelled_operation_is_revoked() -> None:
    result = divide.delay(1)
    lanes.cancel_operation(operation(result).pk)

    assert run_operations() == 0
    assert state(result) == states.REVOKED
    assert result.ready()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=5)


def test_waiting_for_what_does_not_happen_ends_in_time() -> None:
    with pytest.raises(CeleryTimeoutError):
        divide.delay(1).get(timeout=0.01)


@pytest.fixture
def described() -> Iterator[AsyncResult[Any]]:
    result = divide.delay(1)
    run_operations()
    yield current_app.AsyncResult(result.id)


def test_a_result_knows_its_name_and_queue(described: AsyncResult[Any]) -> None:
    assert described.name == "tests.unit.test_serial_results.divide"
    assert described.queue == "serial"
    assert described.retries == 0
