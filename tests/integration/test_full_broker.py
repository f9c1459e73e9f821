"""The broker's memory or disk is full while workers run: they wait until it is not, and nothing is lost."""

import os

import pytest

from handbell.embedded.broker import EmbeddedBroker
from tests.plain import WORKER, add, result_of, until
from tests.servers import RabbitMQ, full, wait_for
from tests.system import System


def call_add() -> str:
    return str(add.delay(2, 3).id)


def result_once_there(task_id: str) -> int:
    return int(until(lambda: result_of(task_id)))


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_a_worker_outlives_a_broker_that_is_full_and_then_does_what_was_called_meanwhile(
    what: str, sqlite_system: System
) -> None:
    folder = sqlite_system.folder / "broker"
    with sqlite_system.worker(*WORKER) as worker:
        with full(str(EmbeddedBroker(folder).socket_path), folder, what):
            assert "takes no messages (" in sqlite_system.manage("handbell", "status").stdout
            called = sqlite_system.call(call_add)
            if what == "disk":
                wait_for(lambda: "MISCONF" in worker.output(), "the worker has lost its connection")
        assert sqlite_system.call(result_once_there, called) == 5
        assert worker.alive()


@pytest.mark.rabbitmq
def test_status_says_that_rabbitmq_takes_nothing(rabbitmq: RabbitMQ, sqlite_system: System) -> None:
    used = {"CELERY_BROKER_URL": rabbitmq.create_vhost("full"), "SECRET_KEY": os.urandom(30).hex()}

    def status() -> str:
        done = sqlite_system.manage("handbell", "status", **used)  # type: ignore[arg-type]
        assert "SQLite at" in done.stdout, done.stderr
        return done.stdout

    assert "takes no messages" not in status()
    rabbitmq.control("set_vm_memory_high_watermark", "0.00001")
    try:
        assert "takes no messages (its memory or its disk is full)" in status()
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "0.6")
    assert "takes no messages" not in status()
