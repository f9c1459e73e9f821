"""Priorities on Redis and Valkey: 9 is taken first, a message without one last, as on RabbitMQ."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from kombu import Producer, Queue

from tasks_app import tasks
from tests.servers import DurableValkey
from tests.unit.conftest import Message


@pytest.fixture
def channel(_broker_runs: None) -> Iterator[Any]:
    with current_app.connection_for_write() as connection:
        found: Any = connection.channel()
        yield found
        found.queue_purge("ordered")


def publish(channel: Any, *priorities: int | None) -> None:
    queue = Queue("ordered", routing_key="ordered")
    producer = Producer(channel)
    for priority in priorities:
        options: dict[str, Any] = {} if priority is None else {"priority": priority}
        producer.publish(str(priority), declare=[queue], routing_key="ordered", **options)


def take(channel: Any) -> Iterator[str]:
    while message := channel.basic_get("ordered", no_ack=True):
        yield message.payload


def test_the_highest_priority_is_taken_first_and_a_missing_one_last(channel: Any) -> None:
    publish(channel, 3, None, 9, 1, 7, 5, 8, 2, 6, 4)

    assert list(take(channel)) == ["9", "8", "7", "6", "5", "4", "3", "2", "1", "None"]


def test_messages_of_one_priority_keep_their_order(channel: Any) -> None:
    publish(channel, 5, 5, 0, None)

    assert list(take(channel)) == ["5", "5", "0", "None"]


def test_a_priority_out_of_range_counts_as_the_nearest_one(channel: Any) -> None:
    publish(channel, 8, 99, -7, 1)

    assert list(take(channel)) == ["99", "8", "1", "-7"]


def test_priority_nine_goes_to_the_list_that_is_read_first(channel: Any) -> None:
    publish(channel, 9, 8, 0)

    assert [channel.client.llen(name) for name in (channel._q_for_pri("ordered", step) for step in (0, 1, 9))] == [
        1,
        1,
        1,
    ]


def test_a_message_that_is_given_back_keeps_its_priority(channel: Any) -> None:
    publish(channel, 5, 9)
    highest = channel.basic_get("ordered")
    assert highest.payload == "9"
    highest.requeue()
    publish(channel, 8)

    assert list(take(channel)) == ["9", "8", "5"]


def test_an_acknowledgement_that_is_lost_takes_nobodys_place_and_is_sent_again(tmp_path: Path) -> None:
    """kombu's own class keeps the place: a worker that may hold one message would receive no more."""
    server = DurableValkey(tmp_path)
    try:
        with current_app.connection_for_write(url=server.url()) as connection:
            channel: Any = connection.channel()
            channel.basic_qos(0, 1, False)
            publish(channel, 1, 2)
            message = channel.basic_get("ordered")
            assert not channel.qos.can_consume()
            server.stop()
            with pytest.raises(connection.connection_errors):
                message.ack()
            assert channel.qos.can_consume()

            server.start()
            assert channel.client.hlen(channel.unacked_key) == 1
            channel.basic_get("ordered").ack()
            assert channel.client.hlen(channel.unacked_key) == 0
    finally:
        server.stop()


@pytest.mark.django_db
def test_a_task_has_the_priority_it_is_sent_with_and_five_otherwise(sent: Callable[[], list[Message]]) -> None:
    tasks.fibonacci.delay(1)
    tasks.fibonacci.apply_async((2,), priority=9)
    tasks.fibonacci.apply_async((3,), priority=0)

    assert [(message.queue, message.args, message.priority) for message in sent()] == [
        ("high", [2], 9),
        ("high", [1], 5),
        ("high", [3], 0),
    ]
