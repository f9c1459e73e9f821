"""Histories of lanes under faults, judged by small models: a counter, a register, and a sequence."""

import itertools
import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from handbell import Operation, states
from tasks_app.models import Counter
from tests.conftest import COLUMNS
from tests.faults.nemesis import FROZEN_SECONDS, Nemesis
from tests.faults.tasks import produce
from tests.servers import HASTE, Postgres, wait_for
from tests.shell import Shell
from tests.system import System, nothing_is_left

SECONDS = float(os.environ.get("FAULTS_SECONDS", "8"))
PRODUCERS = 3


def waiting() -> int:
    return Operation.objects.filter(status__in=[states.QUEUED, states.RUNNING]).count()


def outcome() -> dict[str, Any]:
    rows = Operation.objects.order_by("id").values_list("id", "task_id", "task", "key", "status", "result")
    return {"operations": list(rows), "counters": dict(Counter.objects.values_list("name", "value"))}


@pytest.mark.timeout(SECONDS * 2 + 240)
@pytest.mark.parametrize("column", COLUMNS)
def test_nothing_is_lost_doubled_or_out_of_order(
    column: str,
    make_system: Callable[[str], System],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    system, postgres = make_system(column), None
    with ExitStack() as stack:
        if column == "postgres-rabbitmq":  # a database of its own, for it is restarted
            postgres = Postgres(tmp_path_factory.mktemp("restarted"), *HASTE)
            stack.callback(postgres.stop)
            system.environment["DATABASE_URL"] = postgres.url()
            assert system.manage("migrate").returncode == 0
        system.environment["HANDBELL_SERIAL_IDLE_SECONDS"] = str(FROZEN_SECONDS)
        seed = random.randrange(2**32)
        nemesis = Nemesis(system, postgres, seed, stack)
        nemesis.wait_for_workers()
        with ThreadPoolExecutor(PRODUCERS) as threads:
            paths = [tmp_path / f"producer-{index}" for index in range(PRODUCERS)]
            producers = [threads.submit(run_producer, system, index, path) for index, path in enumerate(paths)]
            nemesis.rage(SECONDS)
            for producer in producers:
                producer.result()
        wait_for(lambda: system.call(waiting) == 0, f"everything has been done (seed {seed})", 90)
        acknowledged = [line.split() for path in paths for line in path.read_text().splitlines()]
        report = judge(acknowledged, system.call(outcome))
    with capsys.disabled():
        sys.stdout.write(f"\n{column}, seed {seed}, {SECONDS:.0f} s: {report}; nemesis: {nemesis.done}\n")
    assert report["acknowledged"] > 100
    assert {report[what] for what in ("lost", "doubled", "out of order", "failed")} == {0}, report
    nothing_is_left(system.folder)


def run_producer(system: System, index: int, path: Path) -> None:
    """In a shell of its own, for `system.call` does one thing at a time."""
    shell = Shell(system.env)
    try:
        request = {"module": produce.__module__, "name": produce.__name__, "args": [index, SECONDS, str(path)]}
        exit_code, output = shell.run(request, SECONDS + 60)
        assert exit_code == 0, output
    finally:
        shell.end()


def judge(acknowledged: list[list[str]], outcome: dict[str, Any]) -> dict[str, int]:
    """Count what went wrong. Every call was acknowledged in the end, so the ledger holds exactly those."""
    rows = {row[1]: row for row in outcome["operations"]}
    succeeded = [row for row in outcome["operations"] if row[4] == "succeeded"]
    report = {
        "acknowledged": len(acknowledged),
        "lost": sum(line[0] not in rows for line in acknowledged),
        "failed": len(rows) - len(succeeded),
        "doubled": len(outcome["operations"]) - len(rows),
        "out of order": 0,
    }
    # The counter: each value was reached by exactly one increment, and a call that began after another had been
    # acknowledged reached a larger one. (Calls at the same time may be applied in either order, whatever their ids.)
    for key in {line[2] for line in acknowledged if line[1] == "increment_value"}:
        mine = [line for line in acknowledged if line[2] == key and rows.get(line[0], line)[4] == "succeeded"]
        values = [int(rows[line[0]][5]) for line in mine]
        report["doubled"] += len(values) - len(set(values))
        report["lost"] += abs(outcome["counters"][key] - len(values))
        report["out of order"] += overtaken([(int(rows[line[0]][5]), int(line[4]), int(line[5])) for line in mine])
    # The sequence and the register: each producer's own calls in their order, each read after its write.
    for index in range(PRODUCERS):
        mine = [line for line in acknowledged if line[2] == f"own-{index}"]
        ids = [rows[line[0]][0] for line in mine if line[0] in rows]
        report["out of order"] += sum(after <= before for before, after in itertools.pairwise(ids))
        report["out of order"] += sum(int(rows[line[0]][5] or 0) != int(line[3]) for line in mine if line[0] in rows)
    return report


def overtaken(history: list[tuple[int, int, int]]) -> int:
    """How many calls (value, called, acknowledged) reached a larger value than one that began after their answer."""
    earliest, count = float("inf"), 0
    for _, called, answered in sorted(history, reverse=True):
        count += called > earliest
        earliest = min(earliest, answered)
    return count


def test_the_judge_sees_a_call_that_was_overtaken() -> None:
    assert overtaken([(1, 0, 10), (2, 5, 15), (3, 12, 20)]) == 0
    assert overtaken([(2, 0, 10), (1, 5, 15)]) == 0  # at the same time: either order is right
    assert overtaken([(2, 0, 10), (1, 11, 15)]) == 1
