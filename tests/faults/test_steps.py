"""A process is killed between the steps in which a task ends: nothing is lost, and what follows is called once."""

from pathlib import Path
from typing import Any

from celery import chord

from tests.crashes import count_call, count_failure, ended, failed, replaced, retried
from tests.plain import add, lines, total, until, wait_for_no_calls
from tests.system import System

MOMENTS = range(1, 9)  # before each statement of the longest end, and once after it


def end_in_every_way(folder: str) -> dict[str, list[Any]]:
    """Tasks of each kind, each with a process that is killed at another moment; the results of each kind."""
    files = Path(folder)
    following = {kind: [files / f"{kind}-{at}" for at in MOMENTS] for kind in ("linked", "chained", "errback")}

    def path(kind: str, at: int) -> str:
        return str(files / f"first-{kind}-{at}")

    def follows(kind: str, at: int) -> Any:
        return count_call.s(path=str(files / f"{kind}-{at}"))

    def errbacks(at: int) -> list[Any]:
        return [count_failure.s(path=str(files / f"errback-{at}"))]

    calls: dict[str, list[Any]] = {
        "retried": [retried.delay(at, path("retried", at)) for at in MOMENTS],
        "replaced": [replaced.delay(at, path("replaced", at)) for at in MOMENTS],
        "linked": [ended.apply_async((at, path("linked", at)), link=follows("linked", at)) for at in MOMENTS],
        "chained": [(ended.s(at, path("chained", at)) | follows("chained", at)).delay() for at in MOMENTS],
        "chord": [chord([ended.s(at, path("chord", at)), add.s(1, 1)], total.s()).delay() for at in MOMENTS],
        "errback": [failed.apply_async((at, path("errback", at)), link_error=errbacks(at)) for at in MOMENTS],
    }
    until(lambda: all(result.ready() for results in calls.values() for result in results))
    wait_for_no_calls()
    until(lambda: all(it.exists() for paths in following.values() for it in paths))
    found = {kind: [result.get(propagate=False) for result in results] for kind, results in calls.items()}
    found["errback"] = [type(error).__name__ for error in found["errback"]]
    return {**found, "times": [len(lines(it)) for paths in following.values() for it in paths]}


def test_whenever_a_process_is_killed_while_its_task_ends(system: System, tmp_path: Path) -> None:
    with system.worker("-Q", "cpu", "-c", "4", "--include=tests.plain,tests.crashes") as worker:
        found = system.call(end_in_every_way, str(tmp_path))
        killed = worker.output().count("runs again: the process that ran it died")

    assert killed > 3 * len(MOMENTS)  # the others had ended before their moment came
    assert found == {
        "retried": ["retried"] * len(MOMENTS),
        "replaced": [3] * len(MOMENTS),
        "linked": [1] * len(MOMENTS),
        "chained": [[1]] * len(MOMENTS),
        "chord": [3] * len(MOMENTS),
        "errback": ["ValueError"] * len(MOMENTS),
        "times": [1] * (3 * len(MOMENTS)),
    }
