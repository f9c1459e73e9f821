"""The embedded broker is taken away while workers run: they, and the next call, have a working one within seconds."""

import shutil

import pytest

from handbell.embedded.broker import EmbeddedBroker
from tasks_app.tasks import fibonacci
from tests.plain import SECONDS
from tests.servers import wait_for
from tests.system import Running, System
from tests.unit.test_embedded import broker_servers, valkeys


def remove_socket(broker: EmbeddedBroker) -> None:
    broker.socket_path.unlink()


def remove_folder(broker: EmbeddedBroker) -> None:
    shutil.rmtree(broker.directory)


def kill_process(broker: EmbeddedBroker) -> None:
    (process,) = broker_servers(broker.directory)
    process.kill()


def call_fibonacci(number: int) -> int:
    return int(fibonacci.delay(number).get(timeout=SECONDS))


HARMS = {"socket": remove_socket, "folder": remove_folder, "process": kill_process}


@pytest.mark.parametrize("harm", HARMS)
def test_a_worker_and_the_next_call_find_a_broker_again(harm: str, sqlite_system: System) -> None:
    broker = EmbeddedBroker(sqlite_system.folder / "broker")
    with sqlite_system.worker("-Q", "cpu,high", "-c", "1") as worker:
        assert sqlite_system.call(call_fibonacci, 10) == 55
        (server,) = valkeys(broker.directory)
        HARMS[harm](broker)
        wait_for(lambda: not server.is_running(), "the former server has ended", 10)
        works_again(sqlite_system, worker)


@pytest.mark.parametrize("harm", HARMS)
def test_so_they_do_under_up(harm: str, sqlite_system: System) -> None:
    broker = EmbeddedBroker(sqlite_system.folder / "broker")
    with sqlite_system.up("--workers=w1", "--no-web", "--no-beat", "--no-flower") as up:
        (server,) = valkeys(broker.directory)
        HARMS[harm](broker)
        wait_for(lambda: not server.is_running(), "the former server has ended", 10)
        works_again(sqlite_system, up)


def works_again(system: System, running: Running) -> None:
    assert system.call(call_fibonacci, 11) == 89
    assert running.alive()
