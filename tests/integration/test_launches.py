"""Launches from the outside: the command, a worker, another program, and the database in a fresh process."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import current_app

from handbell import Launch
from handbell.common.doorbell import DoorbellMessage
from handbell.isolated import launches
from handbell.isolated.orphans import FORK_SERVER_MODULE
from tasks_app.models import Score
from tests.conftest import COLUMNS
from tests.launches import (
    WAIT_SECONDS,
    fail,
    hang,
    nothing,
    segfault,
    sleep,
    statuses,
    use_the_database,
    use_the_database_async,
    wait_for_file,
    wait_until,
)
from tests.servers import wait_for
from tests.system import System, nothing_is_left

WORKER = ("-Q", "isolated", "-c", "2", "--include=tests.launches")
#: A worker in which the sweeper lives, too.
SWEEPING = ("-Q", "isolated,serial", "-c", "2", "--include=tests.launches")


@pytest.fixture(scope="module", params=COLUMNS)
def at_work(request: pytest.FixtureRequest, make_system: Callable[[str], System]) -> Iterator[System]:
    """A system with a worker."""
    system = make_system(request.param)
    with system.worker(*SWEEPING):
        yield system
    nothing_is_left(system.folder)


# --- What is called in the system -------------------------------------------------------------------------------------


def launch_several() -> list[int]:
    """One that crashed, one that failed, and one that hangs."""
    results = [use_the_database.delay(item) for item in range(3)]
    assert max(result.get(timeout=WAIT_SECONDS) for result in results) == Score.objects.count() == 3
    counted: Any = use_the_database_async.delay(3)
    assert counted.get(timeout=WAIT_SECONDS) == 4
    crashed, failed, hanging = segfault.launch(), fail.launch("no cover"), hang.apply_async(time_limit=600)
    wait_for(lambda: Launch.objects.filter(status="running", pid__gt=0).count() == 1, "only one runs", WAIT_SECONDS)
    return [crashed.pk, failed.pk, Launch.objects.get(task_id=hanging.id).pk]


def status_when_over(launch: int) -> str:
    wait_for(lambda: not Launch.objects.filter(pk=launch, status="running").exists(), "it is over", WAIT_SECONDS)
    return Launch.objects.get(pk=launch).status


def seconds_without_a_doorbell() -> float:
    """How long a launch waited of which no message told."""
    nothing.delay().get(timeout=WAIT_SECONDS)  # the fork server has been started
    DoorbellMessage.send = lambda self: True  # type: ignore[method-assign]
    result = nothing.delay(5)
    assert result.get(timeout=WAIT_SECONDS) == 5
    row = Launch.objects.get(task_id=result.id)
    assert row.started_at is not None
    return (row.started_at - row.enqueued_at).total_seconds()


def send_a_message_while_another_hangs() -> int:
    """What came of a message with a task's name, as another program would send it."""
    hanging = hang.apply_async(time_limit=600)
    wait_for(lambda: hanging.state == "STARTED", "it has begun", WAIT_SECONDS)
    answer: int = current_app.send_task("tests.launches.nothing", (5,), queue="isolated").get(timeout=WAIT_SECONDS)
    assert hanging.state == "STARTED"
    launches.cancel(Launch.objects.get(task_id=hanging.id).pk)
    return answer


def start_two(path: str) -> None:
    """One that ends once there is a file at `path`, and one that hangs."""
    wait_for_file.delay(path)
    hang.apply_async(time_limit=600)
    wait_until("running")


# --- Tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_launches_are_listed_shown_and_cancelled(at_work: System) -> None:
    crashed, failed, hanging = map(str, at_work.call(launch_several))

    listed = at_work.manage("handbell", "launches", "list", "--state", "running").stdout.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [[hanging, "hang", "running"]]
    cancelled = at_work.manage("handbell", "launches", "cancel", hanging)
    assert f"Launch {hanging} is being ended by its supervisor." in cancelled.stdout

    shown = at_work.manage("handbell", "launches", "show", crashed).stdout
    assert re.search(r"how it ended  killed by signal 11, SIGSEGV.* after \d+\.\d s", shown)
    assert "--- stderr\nFatal Python error: Segmentation fault" in shown
    shown = at_work.manage("handbell", "launches", "show", failed).stdout
    assert "how it ended  ValueError: no cover, after " in shown
    assert "--- traceback\nTraceback (most recent call last):" in shown
    assert at_work.call(status_when_over, int(hanging)) == "cancelled"


def test_what_was_launched_without_a_doorbell_is_started_within_seconds(at_work: System) -> None:
    assert at_work.call(seconds_without_a_doorbell) < 10  # the sweeper looks every second


def test_a_message_from_another_program_becomes_a_launch_although_the_supervisor_is_busy(at_work: System) -> None:
    assert at_work.call(send_a_message_while_another_hangs) == 5


def test_what_cannot_be_done_is_said_in_a_sentence(sqlite_system: System) -> None:
    refused = sqlite_system.manage("handbell", "launches", "show", "99")

    assert refused.returncode == 1
    assert "There is no launch 99. `manage.py handbell launches` lists them." in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_worker_that_is_told_to_stop_lets_launches_finish_for_a_while(sqlite_system: System) -> None:
    sqlite_system.environment["HANDBELL_STOP_SECONDS"] = "4"
    go_on = sqlite_system.folder / "go_on"
    with sqlite_system.worker(*WORKER) as worker:
        sqlite_system.call(start_two, str(go_on))
        worker.popen.terminate()
        wait_for(lambda: "Warm shutdown" in worker.output(), "it stops")
        go_on.touch()
        assert worker.popen.wait(20) == 0
    assert sqlite_system.call(statuses) == ["succeeded", "lost"]


def test_the_fork_servers_of_a_worker_for_launches_are_there_before_the_first_of_them(sqlite_system: System) -> None:
    def fork_servers() -> set[int]:
        processes = worker.process.children(recursive=True)
        return {it.pid for it in processes if any(FORK_SERVER_MODULE in part for part in it.cmdline())}

    with sqlite_system.worker(*WORKER) as worker:
        wait_for(lambda: len(fork_servers()) == 2, "there is one in each process of the pool")
        before = fork_servers()
        sqlite_system.call(launch_nothing)
        assert fork_servers() == before
    nothing_is_left(sqlite_system.folder)


def launch_nothing() -> None:
    nothing.delay().get(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("system", COLUMNS[:1], indirect=True)
def test_time_limits_of_a_worker_end_no_launch(system: System) -> None:
    with system.worker(*SWEEPING, "--time-limit=2", "--soft-time-limit=1"):
        assert system.call(sleep_for_a_while) == "succeeded"


def sleep_for_a_while() -> str:
    result = sleep.delay(4)
    result.get(timeout=WAIT_SECONDS)
    return str(Launch.objects.get(task_id=result.id).status)
