"""After a soft time limit in the middle of a transaction's beginning, nothing is done on the connection that has it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks_app.models import Score
from tasks_app.tasks import increment_value
from tests import plain
from tests.conftest import COLUMNS
from tests.interrupted import interrupted, interrupted_in_lane
from tests.plain import SECONDS, until, wait_for_no_calls
from tests.system import System, nothing_is_left


@pytest.fixture(scope="module", params=COLUMNS)
def at_work(request: pytest.FixtureRequest, make_system: Callable[[str], System]) -> Iterator[System]:
    system = make_system(request.param)
    with system.worker("-Q", "cpu,serial", "-c", "1", "--include=tests.plain,tests.interrupted"):
        yield system
    nothing_is_left(system.folder)


def outcome(result: Any) -> str:
    until(result.ready)
    return str(result.result) if result.successful() else type(result.result).__name__


def run_interrupted() -> list[Any]:
    found = []
    for then in ("raise", "retry", "return"):
        result = interrupted.delay(then)
        found += [outcome(result), plain.add.delay(1, 1).get(timeout=SECONDS)]
    wait_for_no_calls()
    return [*found, Score.objects.filter(item=4711).count()]


def apply_interrupted() -> list[Any]:
    found = []
    for then in ("raise", "return"):
        before, result, after = (
            increment_value.delay("visits"),
            interrupted_in_lane.delay("visits", then),
            increment_value.delay("visits"),
        )
        found += [before.get(timeout=SECONDS), outcome(result), after.get(timeout=SECONDS)]
    return [*found, Score.objects.filter(item=4711).count()]


def test_a_task_that_was_interrupted_leaves_no_transaction(at_work: System) -> None:
    assert at_work.call(run_interrupted) == ["SoftTimeLimitExceeded", 2, "retried", 2, "returned", 2, 0]


def test_an_operation_that_was_interrupted_fails_alone(at_work: System) -> None:
    assert at_work.call(apply_interrupted) == [1, "SoftTimeLimitExceeded", 2, 3, "HandbellError", 4, 0]
