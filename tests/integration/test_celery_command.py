"""`manage.py celery …` is Celery's own command line."""

import json
from typing import Any

from celery.exceptions import QueueNotFound
from celery.result import AsyncResult

from tasks_app.tasks import fibonacci, increment_value, read_value
from tests.system import System, left_running, nothing_is_left

# --- What runs inside the system ------------------------------------------------------------------------------------


def result_of(task_id: str) -> Any:
    return AsyncResult(task_id).get(timeout=20)


def call_on_another_queue() -> str:
    try:
        fibonacci.apply_async((1,), queue="nonsense")
    except QueueNotFound as error:
        return str(error)
    return "it was sent"


def increment(name: str) -> str:
    return str(increment_value.delay(name).id)


def read(name: str) -> int:
    return read_value.delay(name).get(timeout=20)


# --- Tests ----------------------------------------------------------------------------------------------------------


def test_a_worker_and_inspect_work_as_celery_documents_them(system: System) -> None:
    with system.worker("-Q", "serial", "-c", "1", "-n", "alone@%h") as worker:
        queues = json.loads(system.manage("celery", "inspect", "active_queues", "--json").stdout)
        assert [[queue["name"] for queue in found] for found in queues.values()] == [["serial"]]
        assert "1 node online" in system.manage("celery", "inspect", "ping").stdout
        stats = json.loads(system.manage("celery", "inspect", "stats", "--json").stdout)
        assert [found["pool"]["max-concurrency"] for found in stats.values()] == [1]
        called = system.manage(
            "celery", "call", "tasks_app.tasks.increment_value", "--args", '["called"]', "--queue=serial"
        )
        assert called.returncode == 0, called.stderr
        assert system.call(result_of, called.stdout.strip()) == 1
        system.manage("celery", "control", "shutdown")
        assert worker.popen.wait(15) == 0


def test_every_subcommand_is_there_and_errors_are_celerys(sqlite_system: System) -> None:
    shown = sqlite_system.manage("celery", "--help").stdout
    for name in ("worker", "beat", "flower", "inspect", "control", "purge", "events", "multi", "status"):
        assert name in shown
    assert "--concurrency" in sqlite_system.manage("celery", "worker", "--help").stdout
    wrong = sqlite_system.manage("celery", "worker", "--nonsense")
    assert wrong.returncode == 2
    assert "No such option" in wrong.stderr


def test_a_queue_that_is_not_in_the_table_is_refused(sqlite_system: System) -> None:
    assert "nonsense" in sqlite_system.call(call_on_another_queue)


def test_wrong_settings_stop_a_worker_with_a_sentence(sqlite_system: System) -> None:
    done = sqlite_system.manage("celery", "worker", "-Q", "serial", HANDBELL_LEASE_SECONDS="many")
    assert done.returncode == 1
    assert "HANDBELL_LEASE_SECONDS is 'many', which is not a whole number from 3 to 86400." in done.stderr
    assert "Traceback" not in done.stderr


def test_the_embedded_broker_is_there_while_it_is_used_and_keeps_what_it_was_given(sqlite_system: System) -> None:
    sqlite_system.call(increment, "kept")
    # The only user has ended, so the broker ends too; a new one starts it again, with the message still there.
    nothing_is_left(sqlite_system.folder)
    with sqlite_system.worker("-Q", "serial", "-c", "1"):
        assert sqlite_system.call(read, "kept") == 1
        assert any("valkey-server" in line for line in left_running(sqlite_system.folder))


def test_an_embedded_broker_that_cannot_start_is_said_in_one_sentence(sqlite_system: System) -> None:
    folder = sqlite_system.folder / "broker"
    folder.mkdir(parents=True)
    (folder / "appendonlydir").write_text("in the way")
    done = sqlite_system.manage("celery", "call", fibonacci.name, "--args", "[1]")
    assert "was not sent: The embedded broker did not start within 2 s." in done.stderr
    assert "CELERY_BROKER_URL" in done.stderr
    assert "It is sent once the broker answers." in done.stderr
    assert done.returncode == 0  # the call is safe in the ledger
