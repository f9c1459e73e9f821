"""Single sentences about what happens to plain tasks on a bad day."""

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.servers import wait_for
from tests.system import Running, System

WORKER = ("-Q", "cpu", "-c", "2", "--include=tests.plain")


def ask(system: System, code: str, timeout: float = 120) -> Any:
    return system.python(f"from tests.plain import *\nimport time\nanswer = None\n{code}", timeout)


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_killed_process_does_not_lose_its_task(system: System, tmp_path: Path) -> None:
    with system.worker(*WORKER):
        answer = ask(
            system,
            f"""
results = [die.delay({str(tmp_path / "once")!r}), die.delay({str(tmp_path / "crash")!r}, number=11)]
answer = [[result.get(timeout=40) for result in results], Call.objects.count()]""",
        )
    assert answer == [["alive", "alive"], 0]
    assert len(lines(tmp_path / "once")) == len(lines(tmp_path / "crash")) == 2


def test_a_task_that_always_kills_its_process_is_lost_with_the_reason(system: System, tmp_path: Path) -> None:
    with system.worker(*WORKER):
        answer = ask(
            system,
            f"""
poison = die.apply_async(({str(tmp_path / "poison")!r}, 99), link_error=on_error.s())
once, exits = die_once_and_for_all.delay({str(tmp_path / "once")!r}), leave.delay({str(tmp_path / "exits")!r})
parts = chord([add.s(1, 1), die_once_and_for_all.s({str(tmp_path / "part")!r})], total.s()).delay()
until(lambda: all(result.ready() for result in (poison, once, exits, parts)), 80)
answer = [repr(result.result) for result in (poison, once, exits, parts)]
answer += [add.delay(1, 1).get(timeout=20), Call.objects.count(), ChordCounter.objects.count()]""",
        )
        wait_for(lambda: lines(tmp_path / "poison")[-1] == "errback", "the errback has run")
    poison, once, exits, parts, *rest = answer
    assert "ProcessDied" in poison
    assert "lost: the process that ran it died" in poison
    assert "signal 9" in poison
    assert "3 times in all" in poison
    assert len(lines(tmp_path / "poison")) == 3 + 1
    assert "ProcessDied" in once
    assert len(lines(tmp_path / "once")) == 1
    assert "it called sys.exit(0)" in exits
    assert len(lines(tmp_path / "exits")) == 3
    assert "ChordError" in parts
    assert rest == [2, 0, 0]


def test_when_the_worker_is_killed_another_takes_over_what_it_had(system: System, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with system.worker(*WORKER, "-n", "first@%h") as first:
        ask(system, f"group(take.s(600 if number < 2 else 0, {str(path)!r}, number) for number in range(9)).delay()")
        wait_for(lambda: len(lines(path)) >= 2, "both processes are busy")
        kill_all(first)
        path.write_text(path.read_text().replace("began-0", "x").replace("began-1", "x"))
        with system.worker(*WORKER, "-n", "second@%h", "-c", "4"):
            wait_for(lambda: {"began-0", "began-1"} <= set(lines(path)), "the unfinished run again", 60)
            answer = ask(
                system,
                """
until(lambda: TaskResult.objects.filter(status="SUCCESS").count() == 7, 90)
answer = TaskResult.objects.filter(status="STARTED").count()""",
            )
    assert answer == 2
    assert sorted(line for line in lines(path) if line.startswith("ended")) == [f"ended-{n}" for n in range(2, 9)]


def kill_all(worker: Running) -> None:
    members = [worker.process, *worker.descendants()]
    for member in members:
        member.suspend()
    for member in members:
        member.kill()


def test_a_task_that_kills_its_worker_does_not_do_so_for_ever(system: System, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    ask_without_worker = f"kill_the_worker.delay({str(path)!r})"
    for number in range(4):
        with system.worker(*WORKER, "-n", f"w{number}@%h") as worker:
            if number == 0:
                ask(system, ask_without_worker)
            if number < 3:
                wait_for(lambda number=number: len(lines(path)) == number + 1, "it begins", 60)  # type: ignore[misc]
                wait_for(lambda worker=worker: not worker.alive(), "it kills its worker", 60)  # type: ignore[misc]
            else:
                answer = ask(
                    system,
                    """
until(lambda: TaskResult.objects.get().status == "FAILURE")
answer = TaskResult.objects.get().result""",
                )
    assert "the worker that ran it died" in answer
    assert len(lines(path)) == 3


def test_a_frozen_worker_that_wakes_up_late_changes_nothing(system: System, tmp_path: Path) -> None:
    system.environment["PLAIN_LEASE_SECONDS"] = "3"
    path = tmp_path / "runs"
    with system.worker(*WORKER, "-n", "frozen@%h", "-c", "1") as frozen:
        ask(system, f"take.apply_async((2, {str(path)!r}, 'x'), task_id='it')")
        wait_for(lambda: len(lines(path)) == 1, "it has begun")
        asleep = [frozen.process, *frozen.descendants()]
        for process in asleep:
            process.suspend()
        with system.worker(*WORKER, "-n", "awake@%h", "-c", "1"):
            ask(system, "answer = AsyncResult('it').get(timeout=60)")
            said = ask(system, "answer = [TaskResult.objects.get().worker, str(TaskResult.objects.get().date_done)]")
            for process in asleep:
                process.resume()
            wait_for(lambda: lines(path).count("ended-x") == 2, "the frozen one ends, too")
            wait_for(lambda: ask(system, "answer = Worker.objects.count()") == 2, "it says that it is alive")
            assert ask(system, "answer = add.delay(1, 1).get(timeout=30)") == 2
            now = ask(
                system,
                "row = TaskResult.objects.get(task_id='it')\nanswer = [row.status, row.worker, str(row.date_done)]",
            )
    assert said[0].startswith("awake@")
    assert now == ["SUCCESS", *said]


def test_a_hard_time_limit_runs_the_failure_path_once(system: System, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with system.worker(*WORKER) as worker:
        answer = ask(
            system,
            f"""
result = too_long.apply_async(({str(path)!r},), link_error=on_error.s())
until(result.ready)
answer = [repr(result.result), add.delay(1, 1).get(timeout=20), add.delay(1, 1).get(timeout=20)]
until(lambda: not Call.objects.count())""",
        )
        wait_for(lambda: len(lines(path)) == 2, "the errback has run")
        assert worker.output().count("Hard time limit") == 1
    assert answer == ["TimeLimitExceeded(1)", 2, 2]
    assert lines(path) == ["ran", "errback"]


def test_a_message_that_the_broker_lost_is_sent_again(system: System) -> None:
    with system.worker("-Q", "serial", "-c", "1"):
        answer = ask(
            system,
            """
from datetime import timedelta
from celery import current_app
from django.utils import timezone
from tasks_app.plain import sweep
result = add.delay(1, 2)
with current_app.connection_for_write() as broker:
    until(lambda: broker.default_channel.queue_purge("cpu") == 1)
sweep.look_for_lost()
assert Call.objects.get().sent_at
Call.objects.update(send_after=timezone.now() - timedelta(seconds=1))
answer = [result.id, result.state]""",
        )
        assert answer[1] == "QUEUED"
        with system.worker(*WORKER, "-n", "cpu@%h"):
            assert ask(system, f"answer = AsyncResult({answer[0]!r}).get(timeout=60)") == 3


def test_without_a_broker_a_call_is_quick_and_the_work_is_safe(system: System) -> None:
    """Nobody answers on this port."""
    url = system.environment.get("CELERY_BROKER_URL")
    keep = {"SECRET_KEY": "only for tests " * 4}
    for scheme in ("amqp", "redis"):
        took = System(
            system.folder, {**system.environment, **keep, "CELERY_BROKER_URL": f"{scheme}://127.0.0.1:9/"}
        ).python(
            """
from tests.plain import *
started = time.monotonic()
add.delay(1, 2)
first = time.monotonic() - started
group(add.s(number, 1) for number in range(50)).delay()
answer = [first, time.monotonic() - started]"""
        )
        assert took[0] < 3
        assert took[1] < 4
    assert url is None or url.startswith("amqp")
    with system.worker(*WORKER):
        assert (
            ask(
                system,
                """
until(lambda: TaskResult.objects.filter(status="SUCCESS").count() == 102)
answer = Call.objects.count()""",
            )
            == 0
        )


def brokers(system: System) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(system.folder / "broker") in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_broker_that_freezes_costs_a_call_three_seconds(system: System, request: Any) -> None:
    broker = request.getfixturevalue("rabbitmq").processes if "CELERY_BROKER_URL" in system.environment else None
    with system.worker(*WORKER, "-c", "1"):
        ask(system, "add.delay(1, 1).get(timeout=20)")
        found = broker or brokers(system)
        try:
            took = ask(
                system,
                f"""
import os, signal
def timed(call):
    started = time.monotonic()
    call()
    return time.monotonic() - started
add.delay(1, 1).get(timeout=20)  # over a connection that stays open
for pid in {[process.pid for process in found]}:
    os.kill(pid, signal.SIGSTOP)
answer = [timed(lambda: add.delay(1, 2)), timed(lambda: add.delay(1, 2))]
answer.append(TaskResult.objects.filter(status="QUEUED").count())""",
            )
        finally:
            for process in found:
                process.send_signal(signal.SIGCONT)
        assert took[2] == 2
        assert took[0] < 3.5
        assert took[1] < 0.5
        assert (
            ask(
                system,
                """
until(lambda: TaskResult.objects.filter(status="SUCCESS").count() == 4, 60)
answer = Call.objects.count()""",
            )
            == 0
        )


def test_a_database_that_goes_away_fails_no_task(make_system: Any, request: Any, tmp_path: Path) -> None:
    """Restarted again and again while tasks begin and end: each of them succeeds, and is said to have."""
    from tests.servers import Postgres  # noqa: PLC0415

    server = Postgres(tmp_path / "postgres")
    system = make_system("postgres-rabbitmq")
    system.environment["DATABASE_URL"] = server.create_database("away")
    try:
        assert system.manage("migrate").returncode == 0
        with system.worker(*WORKER):
            ask(system, "with transaction.atomic():\n    group(take.s(0.1) for number in range(150)).delay()")
            for _ in range(3):
                time.sleep(1)
                server.restart()
            answer = ask(
                system,
                """
until(lambda: not Call.objects.count(), 100)
others = list(TaskResult.objects.exclude(status="SUCCESS").values("task_id", "status", "result", "traceback"))
answer = [TaskResult.objects.filter(status="SUCCESS").count(), TaskResult.objects.count(), others]""",
                150,
            )
    finally:
        server.stop()
    assert answer == [150, 150, []]


def test_a_chord_of_chains_counts_a_redelivered_part_once(system: System, tmp_path: Path) -> None:
    with system.worker(*WORKER):
        answer = ask(
            system,
            """
with transaction.atomic():
    result = chord((chain(add.s(number, 1), add.s(1)) for number in range(40)), total.s()).delay()
    ids = list(Call.objects.values_list("task_id", flat=True))
    transaction.on_commit(again(ids[::4], 3))
answer = [len(ids), result.get(timeout=60)]
until(lambda: not Call.objects.count())
answer += [TaskResult.objects.filter(status="SUCCESS").count(), TaskResult.objects.count()]""",
        )
    assert answer == [40, sum(range(2, 42)), 81, 81]


def test_among_quick_ones_the_poisonous_one_is_lost_alone(system: System, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with system.worker(*WORKER):
        answer = ask(
            system,
            f"""
with transaction.atomic():
    results = group(poisonous.s(number, {str(path)!r}) for number in range(40)).delay()
until(lambda: all(result.ready() for result in results), 80)
answer = [[n for n, result in enumerate(results) if result.state != "SUCCESS"], repr(results[7].result)]
until(lambda: not Call.objects.count())""",
        )
    assert answer[0] == [7]
    assert "3 times in all" in answer[1]
    assert lines(path).count("7") == 3


def test_a_lost_doorbell_of_quick_ones_is_rung_again(system: System) -> None:
    with system.worker(*WORKER):
        assert (
            ask(
                system,
                """
from tasks_app import bell
quick.delay(1).get(timeout=30)
bell.publish = lambda message, what: False
results = [quick.delay(number) for number in range(50)]
assert {result.state for result in results} == {"QUEUED"}
answer = [result.get(timeout=30) for result in results] == list(range(1, 51))""",
            )
            is True
        )
