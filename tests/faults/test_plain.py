"""Single sentences about what happens to plain tasks on a bad day."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import chain, chord, current_app, group
from celery.result import AsyncResult
from django.db import transaction
from django.utils import timezone
from django_celery_results.models import ChordCounter, TaskResult  # type: ignore[attr-defined]

from handbell.common import broker
from handbell.models import Call, Owner
from handbell.plain import sweep
from tests.plain import (
    SECONDS,
    WORKER,
    add,
    add_alone,
    call_take,
    call_take_many,
    calls_left,
    die,
    die_once_and_for_all,
    doubles,
    kill_the_worker,
    leave,
    lines,
    on_error,
    poisonous,
    quick,
    result_of,
    results_with,
    state_of,
    sum_of,
    too_long,
    total,
    until,
    wait_for_no_calls,
    wait_for_successes,
)
from tests.servers import Postgres, wait_for
from tests.system import Running, System


def wait(condition: Callable[[], object], what: str) -> None:
    wait_for(condition, what, SECONDS)


def call_two_that_die_once(folder: str) -> list[str]:
    results = [die.delay(f"{folder}/killed"), die.delay(f"{folder}/crashed", number=signal.SIGSEGV)]
    return [result.get(timeout=SECONDS) for result in results]


@pytest.mark.core
@pytest.mark.core
def test_a_killed_process_does_not_lose_its_task(system: System, tmp_path: Path) -> None:
    with system.worker(*WORKER):
        assert system.call(call_two_that_die_once, str(tmp_path)) == ["alive", "alive"]
        assert system.call(calls_left) == 0
    assert len(lines(tmp_path / "killed")) == len(lines(tmp_path / "crashed")) == 2


def call_some_that_always_die(folder: str) -> list[str]:
    results = [
        die.apply_async((f"{folder}/always", 99), link_error=on_error.s()),
        die_once_and_for_all.delay(f"{folder}/once"),
        leave.delay(f"{folder}/exits"),
        chord([add.s(1, 1), die_once_and_for_all.s(f"{folder}/part")], total.s()).delay(),
    ]
    until(lambda: all(result.ready() for result in results))
    return [repr(result.result) for result in results]


def chords_left() -> int:
    return ChordCounter.objects.count()


def test_a_task_that_always_kills_its_process_is_lost_with_the_reason(system: System, tmp_path: Path) -> None:
    with system.worker(*WORKER):
        always, once, exits, parts = system.call(call_some_that_always_die, str(tmp_path))
        assert (system.call(sum_of, 1, 1), system.call(calls_left), system.call(chords_left)) == (2, 0, 0)
        wait(lambda: lines(tmp_path / "always")[-1] == "errback", "the errback has run")
    assert "ProcessDied" in always
    assert "lost: the process that ran it died" in always
    assert "signal 9" in always
    assert "3 times in all" in always
    assert len(lines(tmp_path / "always")) == 3 + 1
    assert "ProcessDied" in once
    assert len(lines(tmp_path / "once")) == 1
    assert "it called sys.exit(0)" in exits
    assert len(lines(tmp_path / "exits")) == 3
    assert "ChordError" in parts


def test_when_the_worker_is_killed_another_takes_over_what_it_had(system: System, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with system.worker(*WORKER, "-n", "first@%h") as first:
        system.call(call_take_many, [600, 600, *[0] * 7], str(path))
        wait(lambda: len(lines(path)) >= 2, "both processes are busy")
        kill_all(first)
        path.write_text("")
        with system.worker(*WORKER, "-n", "second@%h", "-c", "4"):
            wait(lambda: {"began-0", "began-1"} <= set(lines(path)), "the unfinished run again")
            system.call(wait_for_successes, 7)
            assert system.call(results_with, "STARTED") == 2
    assert sorted(line for line in lines(path) if line.startswith("ended")) == [f"ended-{n}" for n in range(2, 9)]


def kill_all(worker: Running) -> None:
    members = [worker.process, *worker.descendants()]
    for member in members:
        member.suspend()
    for member in members:
        member.kill()


def call_one_that_kills_its_worker(path: str) -> str:
    return str(kill_the_worker.delay(path).id)


def wait_for_failure(task_id: str) -> str:
    until(lambda: AsyncResult(task_id).state == "FAILURE")
    return repr(AsyncResult(task_id).result)


def test_a_task_that_kills_its_worker_does_not_do_so_for_ever(system: System, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with system.worker(*WORKER, "-n", "first@%h") as worker:
        task_id = system.call(call_one_that_kills_its_worker, str(path))
        it_kills(worker, path, 1)
    for number in (2, 3):
        with system.worker(*WORKER, "-n", f"w{number}@%h") as worker:
            it_kills(worker, path, number)
    with system.worker(*WORKER, "-n", "last@%h"):
        assert "the worker that ran it died" in system.call(wait_for_failure, task_id)
    assert len(lines(path)) == 3


def it_kills(worker: Running, path: Path, times: int) -> None:
    wait(lambda: len(lines(path)) == times, "it begins")
    wait(lambda: not worker.alive(), "it kills its worker")


def described(task_id: str) -> list[str]:
    row: Any = TaskResult.objects.get(task_id=task_id)
    return [row.status, row.worker, str(row.date_done)]


def workers_registered() -> int:
    return Owner.objects.count()


def test_a_frozen_worker_that_wakes_up_late_changes_nothing(system: System, tmp_path: Path) -> None:
    system.environment["HANDBELL_LEASE_SECONDS"] = "3"
    path = tmp_path / "runs"
    with system.worker(*WORKER, "-n", "frozen@%h", "-c", "1") as frozen:
        system.call(call_take, 2, str(path), "x", "it")
        wait(lambda: len(lines(path)) == 1, "it has begun")
        asleep = [frozen.process, *frozen.descendants()]
        for process in asleep:
            process.suspend()
        with system.worker(*WORKER, "-n", "awake@%h", "-c", "1"):
            system.call(result_of, "it")
            said = system.call(described, "it")
            for process in asleep:
                process.resume()
            wait(lambda: lines(path).count("ended-x") == 2, "the frozen one ends, too")
            wait(lambda: system.call(workers_registered) == 2, "it says that it is alive")
            assert system.call(sum_of, 1, 1) == 2
            assert system.call(described, "it") == said
    assert said[0] == "SUCCESS"
    assert said[1].startswith("awake@")


def call_one_that_takes_too_long(path: str) -> str:
    result = too_long.apply_async((path,), link_error=on_error.s())
    until(result.ready)
    return repr(result.result)


def test_a_hard_time_limit_runs_the_failure_path_once(system: System, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with system.worker(*WORKER) as worker:
        assert system.call(call_one_that_takes_too_long, str(path)) == "TimeLimitExceeded(1)"
        assert [system.call(sum_of, 1, 1) for _ in range(2)] == [2, 2]
        system.call(wait_for_no_calls)
        wait(lambda: len(lines(path)) == 2, "the errback has run")
        assert worker.output().count("Hard time limit") == 1
    assert lines(path) == ["ran", "errback"]


def call_and_lose_the_message() -> str:
    result = add_alone.delay(1, 2)
    with current_app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        until(lambda: channel.queue_purge("cpu") == 1)
    sweep.resend_lost_messages()
    assert Call.objects.get().sent_at  # for it was sent a moment ago
    Call.objects.update(send_after=timezone.now() - timedelta(seconds=1))
    return str(result.id)


def test_a_message_that_the_broker_lost_is_sent_again(system: System) -> None:
    with system.worker("-Q", "serial", "-c", "1"):
        task_id = system.call(call_and_lose_the_message)
        assert system.call(state_of, task_id) == "PENDING"
        with system.worker(*WORKER, "-n", "cpu@%h"):
            assert system.call(result_of, task_id) == 3


def call_one_and_fifty() -> list[float]:
    """Seconds for one call, and for the fifty after it."""
    first = seconds_of(lambda: add.delay(1, 2))
    return [first, seconds_of(lambda: group(add.s(number, 1) for number in range(50)).delay())]


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def test_without_a_broker_a_call_is_quick_and_the_work_is_safe(system: System) -> None:
    """Nobody answers on this port."""
    for scheme in ("amqp", "redis"):
        nobody = {"CELERY_BROKER_URL": f"{scheme}://127.0.0.1:9/", "SECRET_KEY": "only for tests " * 4}
        first, fifty = System(system.folder, {**system.environment, **nobody}).call(call_one_and_fifty)
        assert first < 6  # twice as long as promised, for a machine that is busy with something else
        assert fifty < 6
    with system.worker(*WORKER):
        system.call(wait_for_successes, 102)
        assert system.call(calls_left) == 0


def brokers(system: System) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(system.folder / "broker") in " ".join(process.cmdline()):
                found.append(process)
    return found


def freeze_and_call_twice(pids: Sequence[int]) -> list[float]:
    add.delay(1, 1).get(timeout=SECONDS)  # over a connection that stays open
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return [seconds_of(lambda: add.delay(1, 2)) for _ in range(2)]


def test_a_broker_that_freezes_costs_a_call_three_seconds(system: System, request: pytest.FixtureRequest) -> None:
    is_embedded = "CELERY_BROKER_URL" not in system.environment
    with system.worker(*WORKER, "-c", "1"):
        assert system.call(sum_of, 1, 1) == 2
        found = brokers(system) if is_embedded else request.getfixturevalue("rabbitmq").processes
        try:
            first, second = system.call(freeze_and_call_twice, [process.pid for process in found])
            assert system.call(results_with, "PENDING") >= 1  # the worker may have looked for the first once more
        finally:
            for process in found:
                process.send_signal(signal.SIGCONT)
        assert first < 6  # as above
        assert second < 1.5
        system.call(wait_for_successes, 4)
        assert system.call(calls_left) == 0


def not_succeeded() -> list[Any]:
    others = TaskResult.objects.exclude(status="SUCCESS")
    return list(others.values("task_id", "status", "result", "traceback"))


def test_a_database_that_goes_away_fails_no_task(make_system: Callable[[str], System], tmp_path: Path) -> None:
    """Restarted again and again while tasks begin and end: each of them succeeds, and is said to have."""
    server = Postgres(tmp_path / "postgres")
    system = make_system("postgres-rabbitmq")
    system.environment["DATABASE_URL"] = server.create_database("away")
    path = tmp_path / "runs"
    try:
        assert system.manage("migrate", timeout=SECONDS).returncode == 0
        with system.worker(*WORKER):
            system.call(call_take_many, [0.1] * 150, str(path))
            for _ in range(3):
                seen = len(lines(path))
                wait(lambda seen=seen: len(lines(path)) > seen + 20, "they work")  # type: ignore[misc]
                server.restart()
            system.call(wait_for_no_calls)
            assert system.call(not_succeeded) == []
            assert system.call(results_with, "SUCCESS") == 150
    finally:
        server.stop()


def call_a_chord_and_double_messages() -> list[int]:
    with transaction.atomic():
        result = chord((chain(add.s(number, 1), add.s(1)) for number in range(40)), total.s()).delay()
        ids = list(Call.objects.values_list("task_id", flat=True))
        transaction.on_commit(doubles(ids[::4], 3))
    return [len(ids), result.get(timeout=SECONDS)]


def test_a_chord_of_chains_counts_a_redelivered_part_once(system: System) -> None:
    with system.worker(*WORKER):
        assert system.call(call_a_chord_and_double_messages) == [40, sum(range(2, 42))]
        system.call(wait_for_no_calls)
        assert system.call(not_succeeded) == []
        assert system.call(results_with, "SUCCESS") == 81


def call_quick_ones_with_a_poisonous_one(path: str) -> list[Any]:
    with transaction.atomic():
        results: Any = group(poisonous.s(number, path) for number in range(40)).delay()
    until(lambda: all(result.ready() for result in results))
    return [[n for n, result in enumerate(results) if result.state != "SUCCESS"], repr(results[7].result)]


def test_among_quick_ones_the_poisonous_one_is_lost_alone(system: System, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with system.worker(*WORKER):
        lost, error = system.call(call_quick_ones_with_a_poisonous_one, str(path))
        system.call(wait_for_no_calls)
    assert lost == [7]
    assert "3 times in all" in error
    assert lines(path).count("7") == 3


def call_quick_ones_without_ringing() -> list[Any]:
    quick.delay(1).get(timeout=SECONDS)
    lost = []

    def lose(message: object, what: str, producer: object = None) -> bool:
        lost.append(what)
        return False

    broker.publish = lose
    results = [quick.delay(number) for number in range(50)]
    return [lost[0], [result.get(timeout=SECONDS) for result in results]]


def test_a_lost_doorbell_of_quick_ones_is_rung_again(system: System) -> None:
    with system.worker(*WORKER):
        lost, results = system.call(call_quick_ones_without_ringing)
    assert lost == "The doorbell queue:cpu"
    assert results == list(range(1, 51))
