"""A message that is kept in the ledger is published as Celery would: to the same place, with the same content."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import current_app

from handbell import Celery
from handbell.models import Call
from handbell.plain import sweep
from handbell.plain.message import Message
from tests import plain


class Producer:
    """Keeps what it is to publish."""

    def publish(self, body: Any, *, declare: list[Any], **options: Any) -> None:
        self.body, self.options, self.declared = body, options, [queue.name for queue in declare]


def app(**settings: Any) -> Celery:
    made = Celery("elsewhere", set_as_current=False)
    made.conf.update(settings)
    return made


def published(app: Any, message: Message) -> Producer:
    producer: Any = Producer()
    message.publish(app, producer)
    found: Producer = producer
    return found


def to(exchange: str, routing_key: str) -> Message:
    return Message("{}", {"exchange": exchange, "routing_key": routing_key, "headers": {}}, routing_key)


def test_its_queue_is_declared() -> None:
    assert published(app(), to("", "serial")).declared == ["serial"]


def test_a_queue_that_celery_would_create_is_declared_also_by_a_process_that_has_not_created_it() -> None:
    assert published(app(), to("", "emails")).declared == ["emails"]
    assert published(app(task_create_missing_queues=False), to("", "emails")).declared == []


def test_for_an_exchange_of_its_own_no_queue_is_created() -> None:
    assert published(app(), to("news", "sports.tennis")).declared == []


@pytest.mark.django_db
@pytest.mark.parametrize("options", [{}, {"priority": 9}, {"headers": {"mine": 1}}, {"expires": 60}, {"countdown": 5}])
def test_what_comes_out_of_the_ledger_is_what_went_in(options: dict[str, Any]) -> None:
    plain.add.apply_async((1,), {"y": "ä\0"}, **options)
    message = Message.from_json(Call.objects.get().message)

    found = published(current_app, message)

    request = message.request()
    assert (request["args"], request["kwargs"], request["task"]) == ([1], {"y": "ä\0"}, "tests.plain.add")
    assert found.declared == [found.options["routing_key"]] == ["cpu"]
    assert found.options["priority"] == options.get("priority", 5)
    assert found.options["retry"] is False
    assert (message.eta is not None) == ("countdown" in options)


@pytest.mark.django_db
def test_a_binary_body_survives_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: Any = current_app.conf.changes
    monkeypatch.setitem(changes, "accept_content", ["json", "pickle"])
    plain.add.apply_async((1, 2), serializer="pickle")
    message = Message.from_json(Call.objects.get().message)

    assert isinstance(message.body, bytes)
    assert message.request()["args"] == (1, 2)


@pytest.mark.django_db(transaction=True)
def test_a_lost_message_in_a_queue_outside_of_the_table_is_sent_again(sent: Callable[[], list[Any]]) -> None:
    plain.add.delay(1, 1)
    sent()
    call = Call.objects.get()
    Call.objects.update(sent_at=call.enqueued_at, send_after=call.enqueued_at, queue="elsewhere")
    sweep.resend_lost_messages()
    assert Call.objects.get().sent_at is None
