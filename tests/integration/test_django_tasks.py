"""Django's own Tasks with a real worker, enqueued while the broker is away."""

from typing import Any

from tests import django_tasks as tasks
from tests.plain import SECONDS
from tests.servers import wait_for
from tests.system import System

INCLUDE = "--include=tests.django_tasks"


def enqueue() -> list[str]:
    given = [(tasks.add, (1, 2)), (tasks.add_later, (3, 4)), (tasks.attempt, ("hello",)), (tasks.endless, ())]
    given += [(tasks.third_time, ()), (tasks.increment_in_lane, ("row",)), (tasks.increment_in_lane, ("row", 2))]
    return [task.enqueue(*args).id for task, args in given]


def outcomes(ids: list[str]) -> list[Any]:
    found = [tasks.add.get_backend().get_result(task_id) for task_id in ids]
    wait_for(lambda: all((result.refresh(), result.is_finished)[1] for result in found), "all have ended", SECONDS)
    values = [result.return_value if str(result.status) == "SUCCESSFUL" else result.errors for result in found]
    return [
        value[0].exception_class_path if isinstance(value, list) and hasattr(value[0], "traceback") else value
        for value in values
    ]


def test_tasks_enqueued_without_a_broker_run_when_there_is_one(system: System) -> None:
    away = {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0", "SECRET_KEY": "only for tests " * 4}
    ids = System(system.folder, {**system.environment, **away}).call(enqueue)

    with system.worker("-Q", "high,cpu,io,serial", "-c", "2", INCLUDE):
        added, later, attempt, endless, third, *rows = system.call(outcomes, ids)

    assert (added, later, attempt, third, rows) == (3, 7, [1, ids[2], "hello"], 3, [1, 3])
    assert endless.endswith("SoftTimeLimitExceeded")
