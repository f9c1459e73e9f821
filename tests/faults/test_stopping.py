"""Workers that are told to stop: what is short ends, what is long is given back, and nothing is lost or runs twice."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.servers import wait_for
from tests.system import Running, System

ONE = ("-Q", "cpu", "-c", "1", "--include=tests.plain")
TWO = ("-Q", "cpu", "-c", "2", "--include=tests.plain")
CALLS = 300


def ask(system: System, code: str, timeout: float = 90) -> Any:
    return system.python(f"from tests.plain import *\nanswer = None\n{code}", timeout)


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def stop(worker: Running) -> None:
    """TERM, and that everything is gone in time: what `up` would have to kill was not told in time."""
    members = worker.descendants()
    assert worker.terminate(10) == 0
    wait_for(lambda: not any(map(alive, members)), "its processes are gone, too")


def alive(process: psutil.Process) -> bool:
    return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE


def test_a_task_of_a_few_seconds_ends(system: System, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    with system.worker(*ONE) as worker:
        ask(system, f"take.apply_async((2, {str(path)!r}, 'it'), task_id='it')")
        wait_for(lambda: lines(path), "it has begun")
        stop(worker)
    assert lines(path) == ["began-it", "ended-it"]
    assert ask(system, "answer = [AsyncResult('it').state, Call.objects.count(), Worker.objects.count()]") == [
        *("SUCCESS", 0, 0)
    ]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_longer_one_is_given_back_and_runs_again(pool: str, system: System, tmp_path: Path) -> None:
    system.environment["PLAIN_STOP_SECONDS"] = "1"
    path = tmp_path / "ran"
    with system.worker(*ONE, f"--pool={pool}", "-n", "first@%h") as worker:
        ask(system, f"long_at_first.apply_async(({str(path)!r},), task_id='it')")
        wait_for(lambda: lines(path), "it has begun")
        stop(worker)
        found = ask(system, "call = Call.objects.get()\nanswer = [AsyncResult('it').state, call.worker, call.deaths]")
        assert found == ["QUEUED", "", 0]
        with system.worker(*ONE, "-n", "second@%h"):
            assert ask(system, "answer = AsyncResult('it').get(timeout=20)") == "done"
    assert len(lines(path)) == 2


def test_replace_every_worker_while_calls_are_made(system: System, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    calls = f"""
from tests.plain import *
for number in range({CALLS}):
    take.delay(0.05, {str(path)!r}, number)"""
    with system.worker(*TWO, "-n", "one@%h") as one, system.worker(*TWO, "-n", "two@%h") as two:
        with system.process("shell", "--no-imports", "-v0", "-c", calls):
            wait_for(lambda: len(lines(path)) > 20, "they work")
            with system.worker(*TWO, "-n", "three@%h"):
                stop(one)
                with system.worker(*TWO, "-n", "four@%h"):
                    stop(two)
                    ask(
                        system,
                        f'until(lambda: TaskResult.objects.filter(status="SUCCESS").count() == {CALLS}, 80)',
                    )
        assert ask(system, "answer = [TaskResult.objects.count(), Call.objects.count()]") == [CALLS, 0]
    assert sorted(lines(path)) == sorted(f"{what}-{n}" for n in range(CALLS) for what in ("began", "ended"))
