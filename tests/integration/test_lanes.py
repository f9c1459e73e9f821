"""Lanes from the outside: the command, a worker, beat, and another program."""

from typing import Any

import pytest
from celery.result import AsyncResult
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from handbell import lanes
from handbell.testing import without_broker
from tasks_app.models import Counter
from tasks_app.tasks import increment_value
from tests.servers import wait_for
from tests.system import System

# --- What runs inside the system ------------------------------------------------------------------------------------


def enqueue() -> None:
    increment_value.delay_many([("visits",)] * 5)


def enqueue_without_ringing() -> None:
    """As a process does that is killed between its commit and the doorbell."""
    with without_broker():
        enqueue()


def value() -> int | None:
    return Counter.objects.filter(pk="visits").values_list("value", flat=True).first()


def depths() -> dict[int, int]:
    return {found.lane.pk: found.depth for found in lanes.overview() if found.depth}


def schedule_once() -> None:
    second, _ = IntervalSchedule.objects.get_or_create(every=1, period="seconds")
    PeriodicTask.objects.create(
        name="once", task=increment_value.name, args='["visits"]', interval=second, one_off=True
    )


def result_of(task_id: str) -> Any:
    return AsyncResult(task_id).get(timeout=20)


# --- Tests ----------------------------------------------------------------------------------------------------------


def test_lanes_are_listed_paused_resumed_drained_and_resized(system: System) -> None:
    system.call(enqueue)
    (lane,) = system.call(depths)
    listed = system.manage("handbell", "lanes").stdout
    assert len([line for line in listed.splitlines() if " open " in line]) == 4
    assert next(line for line in listed.splitlines() if line.split()[0] == lane).split()[:3] == [lane, "open", "5"]

    assert f"Lane {lane} is paused." in system.manage("handbell", "lanes", "pause", lane).stdout
    system.manage("handbell", "lanes", "drain", "--now")
    assert system.call(value) is None
    assert system.call(depths) == {lane: 5}

    resized = system.manage("handbell", "lanes", "resize", "3").stdout
    assert "There are 3 lanes now. 5 waiting operations have moved." in resized
    assert len(system.manage("handbell", "lanes").stdout.splitlines()) == 1 + 3
    assert "is not paused" not in system.manage("handbell", "lanes", "resume", "--all").stdout
    assert "5 operations applied." in system.manage("handbell", "lanes", "drain", "--now").stdout
    assert system.call(value) == 5


def test_what_is_refused_is_said_in_a_sentence(sqlite_system: System) -> None:
    for arguments, sentence in {
        ("pause", "99"): "There is no lane 99.",
        ("skip", "1"): "Lane 1 is not blocked.",
        ("retry", "1"): "Lane 1 is not blocked.",
        ("resize", "0"): "There can be 1 to 1024 lanes, not 0.",
    }.items():
        refused = sqlite_system.manage("handbell", "lanes", *arguments)
        assert refused.returncode == 1
        assert sentence in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.core
def test_what_was_enqueued_without_a_broker_is_done_once_there_is_a_worker(system: System) -> None:
    system.call(enqueue_without_ringing)
    with system.worker("-Q", "serial", "-c", "1"):
        wait_for(lambda: system.call(value) == 5, "the sweeper has rung", 20)


def test_a_serial_task_is_started_by_beat_and_by_another_program(system: System) -> None:
    system.call(schedule_once)
    beat = system.process("celery", "beat", f"--pidfile={system.folder}/beat.pid")
    with system.worker("-Q", "serial", "-c", "1"):
        with beat:
            wait_for(lambda: system.call(value) == 1, "beat has started it", 30)
        called = system.manage("celery", "call", increment_value.name, "--args", '["visits"]', "--queue=serial")
        assert system.call(result_of, called.stdout.strip()) == 2
