"""Launches from the outside: the command, a worker, another program, and the database in a fresh process."""

import re
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import COLUMNS
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


def test_launches_are_listed_shown_and_cancelled(at_work: System) -> None:
    found = at_work.python("""
from tests.launches import *
results = [use_the_database.delay(item) for item in range(3)]
assert max(result.get(timeout=30) for result in results) == Score.objects.count() == 3
crashed, refused, hanging = segfault.launch(), fail.launch("no cover"), hang.apply_async(time_limit=60)
while Launch.objects.filter(status="running", pid__gt=0).count() != 1:
    time.sleep(0.05)
answer = [crashed.pk, refused.pk, Launch.objects.get(task_id=hanging.id).pk]""")
    crashed, refused, hanging = map(str, found)

    listed = at_work.manage("launches", "list", "--state", "running").stdout.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [[hanging, "hang", "running"]]
    assert f"Launch {hanging} is being ended by its supervisor." in at_work.manage("launches", "cancel", hanging).stdout

    shown = at_work.manage("launches", "show", crashed).stdout
    assert re.search(r"how it ended  killed by signal 11, SIGSEGV.* after \d\.\d s", shown)
    assert "--- stderr\nFatal Python error: Segmentation fault" in shown
    shown = at_work.manage("launches", "show", refused).stdout
    assert "how it ended  ValueError: no cover, after " in shown
    assert "--- traceback\nTraceback (most recent call last):" in shown
    ended = f"from tests.launches import *\nwhile (row := Launch.objects.get(pk={hanging})).status == 'running': pass\n"
    assert at_work.python(f"{ended}answer = row.status") == "cancelled"


def test_what_was_launched_without_a_doorbell_is_started_within_seconds(at_work: System) -> None:
    waited = at_work.python("""
from tasks_app.isolated import doorbell
from tests.launches import *
nothing.delay().get(timeout=30)  # the forker is warm
doorbell.send = lambda: None
result = nothing.delay(5)
assert result.get(timeout=10) == 5
row = Launch.objects.get(task_id=result.id)
answer = (row.started_at - row.enqueued_at).total_seconds()""")
    assert waited < 2.5


def test_a_message_from_another_program_becomes_a_launch_although_the_supervisor_is_busy(at_work: System) -> None:
    answer = at_work.python("""
from celery import current_app
from tests.launches import *
from tasks_app.isolated import launches
hanging = hang.apply_async(time_limit=60)
while hanging.state != "STARTED":
    time.sleep(0.05)
answer = current_app.send_task("tests.launches.nothing", (5,), queue="isolated").get(timeout=20)
launches.cancel(Launch.objects.get(task_id=hanging.id).pk)""")
    assert answer == 5


def test_what_does_not_go_is_said(sqlite_system: System) -> None:
    refused = sqlite_system.manage("launches", "show", "99")

    assert refused.returncode == 1
    assert "There is no launch 99. `manage.py launches` lists them." in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_worker_that_is_told_to_stop_lets_launches_finish_for_a_while(sqlite_system: System) -> None:
    sqlite_system.environment["LAUNCH_STOP_SECONDS"] = "4"
    with sqlite_system.worker(*WORKER) as worker:
        sqlite_system.python("""
from tests.launches import *
hang.apply_async(time_limit=3)
hang.apply_async(time_limit=60)
answer = wait_until("running")""")
        assert worker.terminate(20) == 0
    assert sqlite_system.python("from tests.launches import *\nanswer = statuses()") == ["timed_out", "lost"]
