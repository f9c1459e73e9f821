"""Lanes from the outside: the command, a worker, beat, and another program."""

from tests.servers import wait_for
from tests.system import System

ENQUEUE = """
from tasks_app.tasks import increment_value
increment_value.delay_many([("visits",)] * 5)
answer = None"""
VALUE = """
from tasks_app.models import Counter
answer = Counter.objects.filter(pk="visits").values_list("value", flat=True).first()"""
DEPTHS = """
from tasks_app.serial import lanes
answer = {found.lane.pk: found.depth for found in lanes.overview() if found.depth}"""


def test_lanes_are_listed_paused_resumed_drained_and_resized(system: System) -> None:
    system.python(ENQUEUE)
    (lane,) = system.python(DEPTHS)
    listed = system.manage("lanes").stdout
    assert len([line for line in listed.splitlines() if " open " in line]) == 4
    assert next(line for line in listed.splitlines() if line.split()[0] == lane).split()[:3] == [lane, "open", "5"]

    assert f"Lane {lane} is paused." in system.manage("lanes", "pause", lane).stdout
    system.manage("lanes", "drain", "--now")
    assert system.python(VALUE) is None
    assert system.python(DEPTHS) == {lane: 5}

    assert "There are 3 lanes now. 5 waiting operations have moved." in system.manage("lanes", "resize", "3").stdout
    assert len(system.manage("lanes").stdout.splitlines()) == 1 + 3
    assert "is not paused" not in system.manage("lanes", "resume", "--all").stdout
    assert "5 operations applied." in system.manage("lanes", "drain", "--now").stdout
    assert system.python(VALUE) == 5


def test_what_does_not_go_is_said(sqlite_system: System) -> None:
    for arguments, sentence in {
        ("pause", "99"): "There is no lane 99.",
        ("skip", "1"): "Lane 1 is not blocked.",
        ("retry", "1"): "Lane 1 is not blocked.",
        ("resize", "0"): "There can be 1 to 1024 lanes, not 0.",
    }.items():
        refused = sqlite_system.manage("lanes", *arguments)
        assert refused.returncode == 1
        assert sentence in refused.stderr
        assert "Traceback" not in refused.stderr


def test_what_was_enqueued_without_a_broker_is_done_once_there_is_a_worker(system: System) -> None:
    system.python(f"from tasks_app.serial import doorbell\ndoorbell.send = lambda lane: None{ENQUEUE}")
    with system.worker("-Q", "serial", "-c", "1"):
        wait_for(lambda: system.python(VALUE) == 5, "the sweeper has rung", 20)


def test_a_serial_task_is_started_by_beat_and_by_another_program(system: System) -> None:
    system.python("""
from django_celery_beat.models import IntervalSchedule, PeriodicTask
second, _ = IntervalSchedule.objects.get_or_create(every=1, period="seconds")
answer = PeriodicTask.objects.create(
    name="once", task="tasks_app.tasks.increment_value", args='["visits"]', interval=second, one_off=True).pk""")
    beat = system.process("celery", "beat", f"--pidfile={system.folder}/beat.pid")
    with system.worker("-Q", "serial", "-c", "1"):
        with beat:
            wait_for(lambda: system.python(VALUE) == 1, "beat has started it", 30)
        called = system.manage(
            "celery", "call", "tasks_app.tasks.increment_value", "--args", '["visits"]', "--queue=serial"
        )
        code = f"from celery.result import AsyncResult\nanswer = AsyncResult({called.stdout.strip()!r}).get(timeout=20)"
        assert system.python(code) == 2
