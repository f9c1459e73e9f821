"""A Redis or Valkey whose memory or disk is full: it is said in a sentence, and is waited for."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from kombu import Connection, Queue

import handbell
from handbell.celery.transport import (
    PriorityTransport,
    ServerCannotWrite,
    _TellsWhyNothingIsTaken,
    client_errors,
)
from handbell.common import broker
from handbell.embedded.broker import embedded_broker
from handbell.errors import BrokerRefuses
from handbell.management import addresses, system_status, up
from handbell.management.running import RunningSystem
from tests.servers import DurableValkey, full

FULL = {"memory": "'maxmemory'", "disk": "MISCONF"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DurableValkey]:
    started = DurableValkey(tmp_path / "valkey")
    yield started
    started.stop()


@pytest.fixture(params=FULL)
def refusing(request: pytest.FixtureRequest, server: DurableValkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The app's broker is full; what it says of that."""
    app = handbell.Celery("elsewhere", broker=server.url(), set_as_current=False)
    for module in (broker, addresses, system_status, up):
        monkeypatch.setattr(module, "current_app", app)
    with full(server.port, server.folder, request.param):
        yield FULL[request.param]


def test_what_needs_the_broker_is_told_that_it_takes_no_messages_and_why(refusing: str) -> None:
    with pytest.raises(BrokerRefuses, match=rf"takes no messages \(.*{refusing}.*\)\. Give it more memory, or room"):
        broker.require_broker()


def test_a_broker_that_has_room_again_takes_messages(server: DurableValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    app = handbell.Celery("elsewhere", broker=server.url(), set_as_current=False)
    monkeypatch.setattr(broker, "current_app", app)
    for what in FULL:
        with full(server.port, server.folder, what), pytest.raises(BrokerRefuses):
            broker.require_broker()
        broker.require_broker()


@pytest.mark.django_db
def test_status_says_it_in_the_place_of_a_traceback(refusing: str) -> None:
    output = io.StringIO()
    call_command("handbell", "status", stdout=output)

    text = output.getvalue()
    assert ": takes no messages\n" in text
    assert "Problem: The broker at redis://" in text
    assert refusing in text


@pytest.mark.django_db
def test_up_says_why_it_is_not_ready(refusing: str) -> None:
    why = up._why_not_ready(RunningSystem(workers=1))

    assert "takes no messages" in why
    assert refusing in why


@pytest.mark.django_db
@pytest.mark.usefixtures("_broker_runs")
def test_status_says_that_the_disk_of_the_embedded_broker_is_full() -> None:
    output = io.StringIO()
    embedded = embedded_broker()
    with full(str(embedded.socket_path), embedded.directory, "disk"):
        assert embedded.runs()
        assert not embedded.answers()
        call_command("handbell", "status", stdout=output)

    assert "takes no messages (MISCONF" in output.getvalue()
    assert "The embedded broker does not run" not in output.getvalue()


@pytest.mark.parametrize("what", FULL)
def test_for_workers_it_is_as_if_the_connection_were_lost(what: str, server: DurableValkey) -> None:
    queue = Queue("somewhere", routing_key="somewhere")
    with Connection(server.url(), transport=PriorityTransport) as connection:
        channel: Any = connection.default_channel
        with full(server.port, server.folder, what):
            with pytest.raises(connection.connection_errors) as caught:
                connection.Producer(channel).publish("message", declare=[queue], routing_key="somewhere")
            assert isinstance(caught.value, client_errors.OutOfMemoryError | ServerCannotWrite)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("MISCONF Errors writing to the AOF file: No space left on device", ServerCannotWrite),
        ("WRONGTYPE Operation against a key", client_errors.ResponseError),
    ],
)
def test_only_what_a_server_says_of_its_disk_is_taken_for_that(said: str, expected: type[Exception]) -> None:
    class Fake:
        def read_response(self) -> None:
            raise client_errors.ResponseError(said)

    class FakeConnection(_TellsWhyNothingIsTaken, Fake):
        pass

    with pytest.raises(client_errors.ResponseError) as caught:
        FakeConnection().read_response()
    assert type(caught.value) is expected
    assert str(caught.value) == said
