"""Single sentences about what happens to a lane on a bad day."""

import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.conftest import COLUMNS
from tests.servers import wait_for
from tests.system import Running, System

INCLUDE = "--include=tests.faults.tasks"
VALUES = """
from tasks_app.models import Counter
answer = dict(Counter.objects.values_list("name", "value"))"""
WAITING = """
from tasks_app.models import Operation
answer = Operation.objects.filter(status__in=["queued", "running"]).count()"""


def enqueue(system: System, count: int, key: str = "visits") -> None:
    system.python(f"""
from tasks_app.tasks import increment_value
increment_value.delay_many([({key!r},)] * {count})
answer = None""")


def all_done(system: System) -> None:
    wait_for(lambda: system.python(WAITING) == 0, "everything has been done", 60)


def test_kill_the_worker_while_it_drains_and_all_is_done_once(system: System) -> None:
    enqueue(system, 60_000)
    with system.worker("-Q", "serial", "-c", "1") as worker:
        wait_for(lambda: system.python(VALUES).get("visits", 0) > 0, "the drain is under way")
        for child in worker.process.children():
            child.kill()
        worker.process.kill()
        worker.popen.wait()
        done = system.python(VALUES)["visits"]
        assert 0 < done < 60_000, "it was killed in the middle"
    with system.worker("-Q", "serial", "-c", "1", "-n", "second@%h"):
        all_done(system)
    assert system.python(VALUES) == {"visits": 60_000}


def test_an_operation_that_kills_its_process_is_lost_and_its_neighbours_are_kept(system: System) -> None:
    system.python("""
from tasks_app.tasks import increment_value
from tests.faults.tasks import dies
for call in [increment_value, increment_value, dies, increment_value, increment_value]:
    call.delay("visits")
answer = None""")
    with system.worker("-Q", "serial", "-c", "1", INCLUDE):
        all_done(system)
    states = system.python("""
from tasks_app.models import Operation
answer = list(Operation.objects.order_by("id").values_list("status", flat=True))""")
    assert states == ["succeeded", "succeeded", "lost", "succeeded", "succeeded"]
    assert system.python(VALUES) == {"visits": 4}


def test_eight_processes_keep_single_file(system: System) -> None:
    with system.worker("-Q", "serial", "-c", "8", INCLUDE):
        system.python("""
from tests.faults.tasks import follow
from tasks_app.serial.drain import drain
for number in range(1, 301):
    follow.delay("row", number)
    drain.delay(number % 16)  # a hundred doorbells too many change nothing
answer = None""")
        all_done(system)
    assert system.python(VALUES) == {"row": 300}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("column", COLUMNS[1:])
def test_a_frozen_worker_that_wakes_writes_nothing(column: str, make_system: Callable[[str], System]) -> None:
    system = make_system(column)
    system.environment["SERIAL_FROZEN_SECONDS"] = "1"
    enqueue(system, 100_000)
    with system.worker("-Q", "serial", "-c", "1", "-n", "frozen@%h") as frozen:
        wait_for(lambda: system.python(VALUES).get("visits", 0) > 0, "the drain is under way")
        (child,) = frozen.process.children()
        freeze_in_a_transaction(child, system)
        with system.worker("-Q", "serial", "-c", "1", "-n", "other@%h"):
            all_done(system)
            assert system.python(VALUES) == {"visits": 100_000}
            child.send_signal(signal.SIGCONT)
            wait_for(lambda: "was given up in the middle of a batch" in frozen.output(), "it notices")
    assert system.python(VALUES) == {"visits": 100_000}


def freeze_in_a_transaction(child: psutil.Process, system: System) -> None:
    """Stop the process at a moment when it holds the lane."""
    held = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' "
                   "AND datname = current_database()")
    answer = cursor.fetchone()[0]"""
    for _ in range(50):
        child.send_signal(signal.SIGSTOP)
        if system.python(held):
            return
        child.send_signal(signal.SIGCONT)
        time.sleep(0.03)
    pytest.fail("the worker was never found in the middle of a batch")


def test_reads_do_not_wait_for_a_thousand_writes_a_second(system: System) -> None:
    with system.worker("-Q", "serial", "-c", "1"):
        seen = system.python(
            """
import threading, time
from tasks_app.models import Counter
from tasks_app.tasks import increment_value
increment_value.delay("row").get(timeout=20)
stop = time.monotonic() + 4
def write():
    while time.monotonic() < stop:
        increment_value.delay_many([("row",)] * 200)
        time.sleep(0.1)
writer = threading.Thread(target=write)
writer.start()
waits, values = [], []
while time.monotonic() < stop:
    started = time.perf_counter()
    values.append(Counter.objects.get(pk="row").value)
    waits.append(time.perf_counter() - started)
    time.sleep(0.002)
writer.join()
waits.sort()
answer = {"p99": waits[int(len(waits) * 0.99)], "written": values[-1] - values[0], "ordered": values == sorted(values),
          "different": len(set(values))}"""
        )
    assert seen["written"] > 2000  # over four seconds
    assert seen["ordered"]
    assert seen["different"] > 5
    assert seen["p99"] < 0.25


def test_an_external_operation_runs_again_when_its_worker_is_killed(system: System) -> None:
    system.environment["SERIAL_LEASE_SECONDS"] = "2"
    lines = system.folder.parent / f"{system.folder.parent.name}.lines"
    with system.worker("-Q", "serial", "-c", "1", "-n", "first@%h", INCLUDE) as first:
        system.python(f"""
from tests.faults.tasks import note_and_wait
from tasks_app.models import Operation
note_and_wait.delay("x", {str(lines)!r}, 3)
answer = None""")
        wait_for(lines.exists, "it has begun")
        end(first)
    with system.worker("-Q", "serial", "-c", "1", "-n", "second@%h", INCLUDE):
        all_done(system)
    assert len(lines.read_text().split()) == 2
    row = system.python("""
from tasks_app.models import Operation
answer = list(Operation.objects.values_list("status", "attempts", "result"))""")
    assert row == [["succeeded", 2, '"x"']]


def end(worker: Running) -> None:
    members = worker.process.children()
    worker.process.kill()
    worker.popen.wait()
    for member in members:
        member.kill()
