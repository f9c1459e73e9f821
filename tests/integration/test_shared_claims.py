"""Calls that processes claim several at a time: each fares as if it had been claimed alone."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, current_app, group
from celery.result import AsyncResult
from django.db import transaction
from django_celery_results.models import TaskResult

from handbell.models import Call
from tests.conftest import COLUMNS
from tests.plain import SECONDS, WORKER, grow, hang_in_c, hold, lines, quick, sometimes, total, until, wait_for_no_calls
from tests.system import System, nothing_is_left


@pytest.fixture(scope="module", params=COLUMNS)
def working(request: pytest.FixtureRequest, make_system: Callable[[str], System]) -> Iterator[System]:
    system = make_system(request.param)
    with system.worker(*WORKER):
        yield system
    nothing_is_left(system.folder)


@pytest.fixture
def at_work(working: System) -> System:
    """A system with a worker that has nothing to do, and knows that calls are quick."""
    working.call(warm_up)
    return working


def warm_up() -> None:
    with transaction.atomic():
        results = [hold.delay(1, "") for _ in range(300)]
    until(lambda: all(result.ready() for result in results))
    wait_for_no_calls()


def call_quick_ones() -> list[Any]:
    with transaction.atomic():
        results: Any = group(quick.s(number) for number in range(200)).delay()
    found = [results.get(timeout=SECONDS) == list(range(1, 201)), quick.delay(1).get(timeout=SECONDS)]
    wait_for_no_calls()
    rows = TaskResult.objects.filter(task_id__in=[result.id for result in results])
    done = rows.filter(status="SUCCESS", worker__isnull=False, date_started__isnull=False)
    return [*found, rows.count(), done.count(), AsyncResult(rows[0].task_id).queue]


def test_quick_ones_have_their_own_rows(at_work: System) -> None:
    assert at_work.call(call_quick_ones) == [True, 2, 200, 200, "cpu"]


def fail_and_retry_among_quick_ones() -> list[Any]:
    results: Any = group(sometimes.s(number) for number in range(30)).delay()
    until(lambda: all(result.ready() for result in results))
    succeeded = [result.result for result in results if result.state == "SUCCESS"]
    return [succeeded, [str(result.result) for result in results if result.failed()]]


def compose_quick_ones() -> list[Any]:
    found = [
        chord((quick.s(number) for number in range(30)), total.s()).delay().get(timeout=SECONDS),
        chain(quick.s(1), quick.s(2), quick.s(3)).delay().get(timeout=SECONDS),
        quick.apply_async((1,), countdown=0.5).get(timeout=SECONDS),
        quick.apply_async((1,), ignore_result=True).state,
    ]
    wait_for_no_calls()
    return found


def test_among_quick_ones_each_fails_and_retries_alone(at_work: System) -> None:
    succeeded, failed = at_work.call(fail_and_retry_among_quick_ones)
    assert succeeded == [number for number in range(30) if number % 3 != 1]
    assert failed == [str(number) for number in range(30) if number % 3 == 1]
    assert at_work.call(compose_quick_ones) == [sum(range(1, 31)), 7, 2, "PENDING"]


def call_a_slow_one_among_quick_ones(path: str) -> list[Any]:
    """They are claimed together, in their order, and the slow one is in the middle."""
    with transaction.atomic():
        results = [hold.delay(0 if number == 10 else number + 1, path) for number in range(40)]
    slow = results.pop(10)
    until(lambda: all(result.ready() for result in results))
    until(lambda: TaskResult.objects.get(task_id=slow.id).status == "STARTED")
    shared_with_it = Call.objects.exclude(task_id=slow.id).count()
    (Path(path).parent / "open").touch()
    return [slow.get(timeout=SECONDS), shared_with_it, all(result.successful() for result in results)]


def test_quick_ones_do_not_wait_for_a_slow_one_that_was_claimed_with_them(at_work: System, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    assert at_work.call(call_a_slow_one_among_quick_ones, str(path)) == [0, 0, True]
    assert sorted(map(int, lines(path))) == [0, *(number + 1 for number in range(40) if number != 10)]


def call_one_that_hangs_in_c_among_quick_ones(path: str) -> list[Any]:
    """It gives nobody else in its process a turn, and has a time limit."""
    with transaction.atomic():
        results: list[Any] = [hold.delay(number + 1, path) for number in range(10)]
        hanging: Any = hang_in_c.apply_async((path,), time_limit=3)
        results += [hold.delay(number + 11, path) for number in range(10)]
    until(lambda: all(result.ready() for result in results))
    quick_ones_were_first = not hanging.ready()
    until(hanging.ready)
    wait_for_no_calls()
    return [quick_ones_were_first, repr(hanging.result), all(result.successful() for result in results)]


def test_nor_for_one_that_hangs_in_c_and_only_that_one_fails_at_its_limit(at_work: System, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    found = at_work.call(call_one_that_hangs_in_c_among_quick_ones, str(path))
    assert found == [True, "TimeLimitExceeded(3)", True]
    assert sorted(lines(path)) == sorted(["hangs", *map(str, range(1, 21))])


def revoke_two(path: str) -> list[Any]:
    """One that runs, which goes on, and one behind it."""
    with transaction.atomic():
        results = [hold.delay(0, path) for _ in range(6)]  # more than there are processes
    until(lambda: len(lines(path)) == 2)
    waiting = Call.objects.order_by("-id")[0].task_id
    current_app.control.revoke([results[0].id, waiting])
    until(lambda: str(AsyncResult(waiting).state) == "REVOKED")
    (Path(path).parent / "open").touch()
    until(lambda: all(result.ready() for result in results))
    return [result.state for result in results]


def test_one_that_waits_is_revoked(at_work: System, tmp_path: Path) -> None:
    assert at_work.call(revoke_two, str(tmp_path / "notes")) == [*["SUCCESS"] * 5, "REVOKED"]


def terminate_the_one_that_runs(path: str) -> list[Any]:
    with transaction.atomic():
        results = [hold.delay(number, path) for number in range(4)]
    until(lambda: "0" in lines(path))
    results[0].revoke(terminate=True)
    until(lambda: all(result.ready() for result in results))
    crashed = Call.objects.filter(crash_count__gt=0).count()
    return [*(result.state for result in results), crashed]


def test_one_that_runs_is_terminated(at_work: System, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    assert at_work.call(terminate_the_one_that_runs, str(path)) == ["REVOKED", "SUCCESS", "SUCCESS", "SUCCESS", 0]
    assert sorted(lines(path)) == ["0", "1", "2", "3"]


def end_their_doorbell(path: str) -> list[str]:
    """As Flower would, which shows nothing else of them."""
    with transaction.atomic():
        results = [hold.delay(number, path) for number in range(4)]
    until(lambda: "0" in lines(path))
    active: Any = current_app.control.inspect().active()
    doorbells = [task["id"] for tasks in active.values() for task in tasks]
    (Path(path).parent / "open").touch()
    current_app.control.revoke(doorbells, terminate=True)
    until(lambda: all(result.ready() for result in results))
    return [result.state for result in results]


def test_when_their_doorbell_is_ended_they_run_again(at_work: System, tmp_path: Path) -> None:
    assert at_work.call(end_their_doorbell, str(tmp_path / "notes")) == ["SUCCESS"] * 4


def watch_events(path: str) -> list[Any]:
    """What Flower sees of quick ones, one that fails, and one that is held."""
    seen: list[tuple[str, str]] = []

    def kinds(result: AsyncResult[Any]) -> list[str]:
        return [kind.removeprefix("task-") for id_, kind in seen if id_ == result.id]

    connection: Any = current_app.connection_for_read()
    handlers = {"*": lambda event: seen.append((event.get("uuid", ""), event["type"]))}
    receiver: Any = current_app.events.Receiver(connection, handlers=handlers)
    threading.Thread(target=receiver.capture, daemon=True).start()
    current_app.control.enable_events()
    until(lambda: kinds(quick.delay(1)) or any(kind == "task-received" for _, kind in seen))
    with transaction.atomic():
        results = [sometimes.delay(number) for number in (0, 1, 3, 6)]
    held = hold.delay(0, path)
    found = [until(lambda it=result: len(kinds(it)) == 3 and kinds(it)) for result in results]  # type: ignore[misc]
    (Path(path).parent / "open").touch()
    until(lambda: kinds(held) == ["received", "started", "succeeded"])
    current_app.control.disable_events()
    receiver.should_stop = True
    return found


def test_each_of_them_has_events(at_work: System, tmp_path: Path) -> None:
    succeeded, failed = ["received", "started", "succeeded"], ["received", "started", "failed"]
    assert at_work.call(watch_events, str(tmp_path / "notes")) == [succeeded, failed, succeeded, succeeded]


def inspect_what_runs(path: str) -> list[Any]:
    held = hold.delay(0, path)
    inspect: Any = current_app.control.inspect()
    until(lambda: [task["id"] for tasks in inspect.active().values() for task in tasks] == [held.id])
    ((task,),) = inspect.active().values()
    (asked,) = inspect.query_task(held.id).values()
    (Path(path).parent / "open").touch()
    held.get(timeout=SECONDS)
    until(lambda: not any(inspect.active().values()))
    return [task["name"], task["args"], asked[held.id][0]]


def test_inspect_shows_the_one_that_runs(at_work: System, tmp_path: Path) -> None:
    path = str(tmp_path / "notes")
    assert at_work.call(inspect_what_runs, path) == [hold.name, [0, path], "active"]


def limit_by_remote_control(path: str) -> list[Any]:
    current_app.control.time_limit(hang_in_c.name, hard=1, reply=True)
    current_app.control.rate_limit(quick.name, "1/h", reply=True)
    with transaction.atomic():
        limited = [quick.delay(number) for number in range(3)]
        hanging = hang_in_c.delay(path)
    until(hanging.ready)
    until(lambda: Call.objects.filter(is_shared=False, sent_at__isnull=False).count() == 2)
    found = [repr(hanging.result), sum(result.ready() for result in limited)]
    Call.objects.all().delete()
    return found


def test_limits_that_are_changed_while_the_worker_runs_are_kept(system: System, tmp_path: Path) -> None:
    """By a worker that is for this: what it holds for a rate takes its places for messages, as in Celery."""
    with system.worker(*WORKER):
        assert system.call(limit_by_remote_control, str(tmp_path / "notes")) == ["TimeLimitExceeded(1)", 1]


def pids_of_six(path: str) -> list[int]:
    with transaction.atomic():
        results = [grow.delay(1, path) for _ in range(6)]
    return [result.get(timeout=SECONDS) for result in results]


def test_a_process_that_is_for_one_task_runs_one(sqlite_system: System, tmp_path: Path) -> None:
    with sqlite_system.worker(*WORKER, "--max-tasks-per-child=1"):
        assert len(set(sqlite_system.call(pids_of_six, str(tmp_path / "notes")))) == 6
