"""Whether the broker is there is found out within a time that a person would wait, and said in a sentence."""

import socket
import time
from collections.abc import Iterator

import pytest
from celery import Celery

from handbell.common import broker
from handbell.errors import BrokerUnavailable
from tests.servers import free_port

SCHEMES = ["redis", "amqp"]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where somebody listens and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(broker, "current_app", Celery("elsewhere", broker=url, set_as_current=False))


@pytest.mark.usefixtures("_broker_runs")
def test_a_broker_that_is_there_is_found() -> None:
    broker.require_broker()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_broker_that_is_not_there_is_named_without_its_password(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    use(monkeypatch, f"{scheme}://user:hush@127.0.0.1:{port}/0")

    with pytest.raises(BrokerUnavailable) as caught:
        broker.require_broker()
    assert f"{scheme}://user:**@127.0.0.1:{port}/" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "correct CELERY_BROKER_URL." in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_broker_that_does_not_answer_is_given_up_in_time(
    scheme: str, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, f"{scheme}://127.0.0.1:{silent_port}/0")
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable, match=r"does not answer \(\w.+\)\."):
        broker.require_broker()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_broker_that_does_not_answer_is_asked_once_for_all_queues(
    scheme: str, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, f"{scheme}://127.0.0.1:{silent_port}/0")
    monkeypatch.setattr(broker._EmptyQueues, "unknown_at", 0.0)
    asked, ask = [], broker._is_queue_empty

    def counted(queue: str) -> bool | None:
        asked.append(queue)
        return ask(queue)

    monkeypatch.setattr(broker, "_is_queue_empty", counted)

    assert not any(broker.is_queue_empty(f"queue-{number}") for number in range(10))
    assert asked == ["queue-0"]
