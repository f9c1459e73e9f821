"""What happens to a lane on a bad day, a sentence each."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import connection

from handbell import Operation, states
from handbell.serial.drain import drain
from tasks_app.models import Counter
from tasks_app.tasks import increment_value
from tests.conftest import COLUMNS
from tests.faults.tasks import (
    crash,
    follow,
    hold_the_commit,
    never_end,
    never_end_in_a_transaction,
    never_end_in_c,
    note_and_wait,
)
from tests.plain import lines
from tests.servers import wait_for
from tests.system import System

INCLUDE = "--include=tests.faults.tasks"

# --- What runs inside the system ------------------------------------------------------------------------------------


def enqueue(count: int) -> None:
    increment_value.delay_many([("visits",)] * count)


def enqueue_around_a_crash() -> None:
    increment_value.delay_many([("visits",)] * 2)
    crash.delay("visits")
    increment_value.delay_many([("visits",)] * 2)


def enqueue_around_what_never_ends() -> None:
    never_ending = (never_end.s("visits"), never_end_in_a_transaction.s(), never_end_in_c.s("visits"))
    for signature in never_ending:
        increment_value.delay_many([("visits",)] * 2)
        signature.delay()
    increment_value.delay("visits")


def enqueue_in_order_and_ring_too_often() -> None:
    for number in range(1, 301):
        follow.delay("row", number)
        drain.delay(number % 16)  # doorbells too many change nothing


def enqueue_external(path: str) -> None:
    note_and_wait.delay("x", path, 600)


def enqueue_and_hold_the_commit(folder: str) -> None:
    increment_value.delay("row", 7)
    hold_the_commit.delay("row", folder)


def values() -> dict[str, int]:
    return dict(Counter.objects.values_list("name", "value"))


def waiting() -> int:
    return Operation.objects.filter(status__in=[states.QUEUED, states.RUNNING]).count()


def operations() -> list[tuple[Any, ...]]:
    return list(Operation.objects.order_by("id").values_list("status", "attempts", "result"))


def idle_transactions() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


def read_while_others_write() -> list[int]:
    """Read a row over and over, while another thread has it changed 10,000 times; the values that were seen."""

    def write() -> None:
        for _ in range(50):
            increment_value.delay_many([("row",)] * 200)[-1].get(timeout=30)
        connection.close()

    increment_value.delay("row").get(timeout=30)
    writer, seen = threading.Thread(target=write), []
    writer.start()
    while writer.is_alive():
        seen.append(Counter.objects.get(pk="row").value)
    seen.append(Counter.objects.get(pk="row").value)
    return seen


# --- Tests ----------------------------------------------------------------------------------------------------------


def wait_until_all_is_done(system: System) -> None:
    wait_for(lambda: system.call(waiting) == 0, "everything has been done", 120)


@pytest.mark.core
def test_kill_the_worker_while_it_drains_and_all_is_done_once(system: System) -> None:
    system.call(enqueue, 60_000)
    with system.worker("-Q", "serial", "-c", "1") as worker:
        wait_for(lambda: system.call(values).get("visits", 0) > 0, "the drain is under way")
        worker.kill()
        done = system.call(values)["visits"]
        assert 0 < done < 60_000, "it was killed in the middle"
    with system.worker("-Q", "serial", "-c", "1", "-n", "second@%h"):
        wait_until_all_is_done(system)
    assert system.call(values) == {"visits": 60_000}


def test_an_operation_that_kills_its_process_is_lost_and_its_neighbours_are_kept(system: System) -> None:
    system.call(enqueue_around_a_crash)
    with system.worker("-Q", "serial", "-c", "1", INCLUDE):
        wait_until_all_is_done(system)
    found = [status for status, *_ in system.call(operations)]
    assert found == ["succeeded", "succeeded", "lost", "succeeded", "succeeded"]
    assert system.call(values) == {"visits": 4}


def test_an_operation_that_never_ends_fails_alone_at_its_time_limit(system: System) -> None:
    system.call(enqueue_around_what_never_ends)
    with system.worker("-Q", "serial", "-c", "1", INCLUDE):
        wait_until_all_is_done(system)
    found = system.call(operations)
    failed = [json.loads(result)["exc_type"] for status, _, result in found if status == "failed"]
    assert failed == ["SoftTimeLimitExceeded", "SoftTimeLimitExceeded", "TimeLimitExceeded"]
    assert [attempts for _, attempts, _ in found] == [1] * 10
    assert system.call(values) == {"visits": 7}


def test_eight_processes_change_a_row_one_at_a_time_and_in_order(system: System) -> None:
    with system.worker("-Q", "serial", "-c", "8", INCLUDE):
        system.call(enqueue_in_order_and_ring_too_often)
        wait_until_all_is_done(system)
    assert system.call(values) == {"row": 300}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("column", COLUMNS[1:])
def test_a_frozen_worker_that_wakes_writes_nothing(column: str, make_system: Callable[[str], System]) -> None:
    system = make_system(column)
    system.environment["HANDBELL_SERIAL_IDLE_SECONDS"] = "1"
    system.call(enqueue, 50_000)
    with system.worker("-Q", "serial", "-c", "1", "-n", "frozen@%h") as frozen:
        wait_for(lambda: system.call(values).get("visits", 0) > 0, "the drain is under way")
        (child,) = frozen.process.children()
        wait_for(lambda: is_frozen_in_a_transaction(child, system), "the worker was frozen in the middle of a batch")
        with system.worker("-Q", "serial", "-c", "1", "-n", "other@%h"):
            wait_until_all_is_done(system)
            assert system.call(values) == {"visits": 50_000}
            child.send_signal(signal.SIGCONT)
            wait_for(lambda: "broke off in the middle of a batch" in frozen.output(), "it notices")
    assert system.call(values) == {"visits": 50_000}


def is_frozen_in_a_transaction(child: psutil.Process, system: System) -> bool:
    """Stop the process; if it does not hold the lane just now, let it go on."""
    child.send_signal(signal.SIGSTOP)
    if system.call(idle_transactions):
        return True
    child.send_signal(signal.SIGCONT)
    return False


def test_a_read_does_not_wait_for_the_write_that_is_under_way(system: System, tmp_path: Path) -> None:
    system.call(enqueue_and_hold_the_commit, str(tmp_path))
    with system.worker("-Q", "serial", "-c", "1", INCLUDE):
        wait_for((tmp_path / "written").exists, "the row has been written, and is not committed")
        assert system.call(values) == {}
        (tmp_path / "go on").touch()
        wait_until_all_is_done(system)
    assert system.call(values) == {"row": 7}


def test_reads_between_thousands_of_writes_see_each_value_in_its_order(system: System) -> None:
    with system.worker("-Q", "serial", "-c", "1"):
        seen = system.call(read_while_others_write)
    assert seen == sorted(seen)
    assert seen[-1] == 10_001
    assert len(set(seen)) > 5


def test_an_external_operation_runs_again_when_its_worker_is_killed(system: System, tmp_path: Path) -> None:
    system.environment["HANDBELL_LEASE_SECONDS"] = "3"
    path = tmp_path / "lines"
    with system.worker("-Q", "serial", "-c", "1", "-n", "first@%h", INCLUDE) as first:
        system.call(enqueue_external, str(path))
        wait_for(lambda: lines(path), "it has begun")
        first.kill()
    with system.worker("-Q", "serial", "-c", "1", "-n", "second@%h", INCLUDE):
        wait_until_all_is_done(system)
    assert len(lines(path)) == 2
    assert system.call(operations) == [["succeeded", 2, '"x"']]


def test_an_external_operation_that_a_stop_cuts_short_runs_again_at_once(system: System, tmp_path: Path) -> None:
    system.environment["HANDBELL_STOP_SECONDS"] = "1"
    path = tmp_path / "lines"
    with system.worker("-Q", "serial", "-c", "1", "-n", "first@%h", INCLUDE) as first:
        system.call(enqueue_external, str(path))
        wait_for(lambda: lines(path), "it has begun")
        assert first.terminate() == 0
    assert system.call(operations) == [["queued", 0, None]]
    with system.worker("-Q", "serial", "-c", "1", "-n", "second@%h", INCLUDE):
        wait_until_all_is_done(system)
    assert len(lines(path)) == 2
    assert system.call(operations) == [["succeeded", 1, '"x"']]
