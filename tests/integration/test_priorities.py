"""A priority means the same on every broker: 9 is taken first, and none given counts as 5."""

from collections.abc import Sequence
from typing import Any

from tests.plain import lines
from tests.servers import wait_for
from tests.system import System
from tests.tasks import write_line

PRIORITIES = [3, 9, 0, 6, 1, 8, 4, 2, 7, None]


def call_twice_with_each(priorities: Sequence[int | None], path: str) -> None:
    for priority in priorities:
        for nth in "ab":
            options: dict[str, Any] = {} if priority is None else {"priority": priority}
            write_line.apply_async((path, f"{5 if priority is None else priority}{nth}"), **options)


def test_the_highest_priority_is_taken_first(system: System) -> None:
    path = system.folder.parent / f"{system.folder.name}.lines"
    system.call(call_twice_with_each, PRIORITIES, str(path))

    with system.worker("-Q", "serial", "-c", "1", "--include=tests.tasks"):
        wait_for(lambda: len(lines(path)) == 20, "all tasks have run")

    assert lines(path) == [f"{priority}{nth}" for priority in range(9, -1, -1) for nth in "ab"]
