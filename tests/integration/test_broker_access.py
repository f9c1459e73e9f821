"""What somebody can do who can write to the broker and to nothing else, as SECURITY.md says; and what works without
Celery's remote control.
"""

import pickle
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import amqp
import pytest
from celery import Celery, current_app
from kombu import Connection

from handbell import HandbellError, Launch, Operation
from handbell.common import broker
from tasks_app.tasks import increment_value
from tests import plain
from tests.faults import rubbish
from tests.launches import sleep
from tests.plain import SECONDS, WORKER, add, lines, state_of, sum_of, until
from tests.servers import RabbitMQ, wait_for
from tests.system import System

NOT_YET, LATER = 3600, 2


def send(name: str, args: list[Any], task_id: str = "") -> str:
    """Send a message as a program does that has Celery, and nothing of ours; the id."""
    with Celery("other", broker=current_app.conf.broker_url, set_as_current=False) as other:
        return str(other.send_task(name, args, task_id=task_id or str(uuid.uuid4()), queue="cpu").id)


def send_pickle(path: str) -> None:
    """Send a pickle that would make the file at `path`."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (path, "w")

    headers = {"id": str(uuid.uuid4()), "task": add.name, "lang": "py"}
    with Connection(current_app.conf.broker_url) as connection, connection.Producer() as producer:
        producer.publish(
            pickle.dumps(((Bomb(),), {}, {})),
            headers=headers,
            routing_key="cpu",
            content_type="application/x-python-serialize",
            content_encoding="binary",
        )


def result_once_there(task_id: str) -> Any:
    return until(lambda: plain.result_of(task_id))


def call_later() -> str:
    return str(add.apply_async((2, 3), countdown=NOT_YET).id)


def ended_call() -> str:
    result = add.delay(2, 3)
    result.get(timeout=SECONDS)
    return str(result.id)


def shut_down() -> None:
    current_app.control.shutdown()


def launch_something_long() -> int:
    return int(sleep.launch(SECONDS).pk)


def launch_state(number: int) -> str:
    return str(Launch.objects.get(pk=number).status)


def test_a_message_that_nobody_recorded_runs_a_task_of_the_project_and_nothing_else(sqlite_system: System) -> None:
    with sqlite_system.worker(*WORKER) as worker:
        assert sqlite_system.call(result_once_there, sqlite_system.call(send, add.name, [4, 5])) == 9
        sqlite_system.call(send, "os.system", ["true"])
        wait_for(lambda: "Received unregistered task of type 'os.system'" in worker.output(), "it is refused")
        bomb = sqlite_system.folder / "exploded"
        sqlite_system.call(send_pickle, str(bomb))
        wait_for(lambda: "Refusing to deserialize" in worker.output(), "it is refused")
        assert sqlite_system.call(sum_of, 2, 3) == 5
        assert not bomb.exists()


def test_no_message_ends_a_worker(system: System) -> None:
    system.environment["FAULTS_CONTROL"] = str(system.folder)
    queues = ",".join(rubbish.QUEUES)
    with system.worker("-Q", queues, "-c", "2", "--include=tests.plain,tests.faults.rubbish") as worker:
        system.call(rubbish.send_all)
        assert system.call(sum_of, 2, 3) == 5
        system.call(wait_for_empty_queues)
        assert system.call(sum_of, 2, 3) == 5
        assert worker.alive()
    assert not (system.folder / "executed").exists()


def wait_for_empty_queues() -> None:
    for queue in rubbish.QUEUES:
        until(lambda queue=queue: broker.is_queue_empty(queue))  # type: ignore[misc]


def call_chain(path: str) -> list[str]:
    """Call tasks one after the other, later; and with the same ids, send messages of one's own."""
    first, second = plain.take.s(0, path, 1), plain.take.si(0, path, 2)
    result: Any = (first | second).apply_async(countdown=LATER)
    with Celery("other", broker=current_app.conf.broker_url, set_as_current=False) as other:
        other.conf.task_queues = current_app.conf.task_queues
        other.send_task(plain.take.name, (0, path, "other"), task_id=result.parent.id, queue="cpu")
        other.send_task(plain.take.name, (0, path, "other"), queue="cpu")
        other.send_task(plain.bare.name, (path,), queue="cpu")
        other.send_task(plain.bare.name, (path,), task_id=result.parent.id, queue="cpu")
        other.send_task(increment_value.name, ("other",), queue="cpu")
        chained = [plain.take.si(0, path, "chained")]
        other.send_task(plain.take.name, (0, path, "other"), task_id=result.parent.id, queue="cpu", chain=chained)
        other.send_task(plain.add.name, (0, 0), task_id=result.parent.id, queue="cpu")
    return [result.get(timeout=SECONDS), result.parent.get(timeout=SECONDS)]


def call_unrecorded(path: str) -> str:
    try:
        plain.bare.delay(path)
    except HandbellError as error:
        return str(error)
    return "it was called"


@pytest.mark.parametrize("concurrency", ["prefork", "threads"])
def test_workers_that_refuse_what_is_not_recorded_run_what_is_recorded(system: System, concurrency: str) -> None:
    system.environment["HANDBELL_UNRECORDED_CALLS"] = "refuse"
    path = system.folder / "lines"
    with system.worker(*WORKER, "-P", concurrency, "-n", "one@%h") as worker:
        assert system.call(call_chain, str(path)) == [2, 1]
        wait_for(lambda: worker.output().count("is refused") >= 3, "the others are refused", SECONDS)
        assert lines(path) == ["began-1", "ended-1", "began-2", "ended-2"]
        assert "ignore_result" in system.call(call_unrecorded, str(path))
        assert system.call(operations) == 0


def operations() -> int:
    return Operation.objects.count()


def test_a_message_with_the_id_of_a_call_changes_none_that_has_ended_and_begins_one_that_waits(
    sqlite_system: System,
) -> None:
    with sqlite_system.worker(*WORKER) as worker:
        ended, waiting = sqlite_system.call(ended_call), sqlite_system.call(call_later)
        sqlite_system.call(send, add.name, [40, 50], ended)
        wait_for(lambda: f"{ended} is dropped" in worker.output(), "it is dropped")
        assert sqlite_system.call(plain.result_of, ended) == 5
        sqlite_system.call(send, add.name, [40, 50], waiting)
        assert sqlite_system.call(result_once_there, waiting) == 90


def test_without_remote_control_work_goes_on_and_no_message_stops_a_worker(sqlite_system: System) -> None:
    sqlite_system.environment["DJANGO_SETTINGS_MODULE"] = "tests.no_remote_control"
    with sqlite_system.worker(*WORKER) as worker:
        sqlite_system.call(shut_down)
        assert sqlite_system.call(sum_of, 2, 3) == 5
        assert worker.alive()

        waiting = sqlite_system.call(call_later)
        assert "is revoked" in sqlite_system.manage("handbell", "calls", "revoke", waiting).stdout
        assert sqlite_system.call(state_of, waiting) == "REVOKED"
        held = sqlite_system.folder / "held"
        running = sqlite_system.call(plain.call_take, SECONDS, str(held))
        wait_for(held.exists, "it runs")
        sqlite_system.manage("handbell", "calls", "revoke", running, "--terminate")
        assert sqlite_system.call(sum_of, 2, 3) == 5
        assert sqlite_system.call(state_of, running) == "STARTED"
        assert "workers   1 registered as alive" in sqlite_system.manage("handbell", "status").stdout


def test_without_remote_control_up_says_when_it_is_ready_and_launches_are_cancelled(sqlite_system: System) -> None:
    sqlite_system.environment["DJANGO_SETTINGS_MODULE"] = "tests.no_remote_control"
    with sqlite_system.up("--workers=w1", "--no-web", "--no-beat", "--no-flower") as up:
        assert "ready: 3 workers run" in up.output()
        launch = sqlite_system.call(launch_something_long)
        wait_for(lambda: sqlite_system.call(launch_state, launch) == "running", "it runs")
        assert sqlite_system.manage("handbell", "launches", "cancel", str(launch)).returncode == 0
        wait_for(lambda: sqlite_system.call(launch_state, launch) == "cancelled", "it is cancelled")


@pytest.mark.rabbitmq
def test_a_worker_whose_queue_is_deleted_as_it_begins_makes_it_anew(
    rabbitmq: RabbitMQ, make_system: Callable[[str], System]
) -> None:
    """The cancellation may come with the first thing that the worker reads."""
    system = make_system("postgres-rabbitmq")
    vhost = system.environment["CELERY_BROKER_URL"].rpartition("/")[2]

    def consumers() -> int:
        with suppress(amqp.NotFound), amqp.Connection(f"127.0.0.1:{rabbitmq.port}", virtual_host=vhost) as connection:
            declared: Any = connection.channel().queue_declare("cpu", passive=True)
            return int(declared.consumer_count)
        return 0

    with system.worker("-Q", "cpu", "-c", "1"):
        for _ in range(5):
            with amqp.Connection(f"127.0.0.1:{rabbitmq.port}", virtual_host=vhost) as connection:
                connection.channel().queue_delete("cpu")
            time.sleep(0.3)  # while the worker starts again
        wait_for(lambda: consumers() == 1, "the worker takes its queue")
