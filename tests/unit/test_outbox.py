"""Messages of calls: after an outage of the broker each is sent once more."""

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from django_celery_results.models import TaskResult
from kombu.exceptions import OperationalError

from handbell.common import broker
from handbell.models import Call
from handbell.plain import sweep
from handbell.plain.message import Message as CallMessage
from handbell.plain.outbox import publish_call
from tests import plain
from tests.unit.conftest import Message

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain.add, "shares_claims", False)


def test_after_an_outage_each_message_is_sent_once(
    sent: Callable[[], list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as outage:

        def fail(*args: Any, **kwargs: Any) -> None:
            raise OperationalError("no broker")

        outage.setattr(CallMessage, "publish", fail)
        ids = [plain.add.delay(number, 1).id for number in range(50)]
    broker._Backoff.until = 0.0
    Call.objects.update(send_after=timezone.now())

    assert sweep.send_unsent() == 50
    Call.objects.filter(sent_at=None).update(send_after=timezone.now())  # the time that one sweeper has is over
    assert sweep.send_unsent() == 0

    assert sorted(message.id for message in sent()) == sorted(ids)


def test_one_that_cannot_be_sent_keeps_no_other_from_being_sent(
    sent: Callable[[], list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = publish_call

    def refuse_the_second(message: CallMessage, enqueued_at: Any) -> bool:
        if message.task_id == ids[1]:
            raise ValueError("a frame that is too large")
        return publish(message, enqueued_at)

    with monkeypatch.context() as outage:
        outage.setattr(CallMessage, "publish", lambda *args, **kwargs: (_ for _ in ()).throw(OperationalError("none")))
        ids = [plain.add.delay(number, 1).id for number in range(3)]
    broker._Backoff.until = 0.0
    Call.objects.update(send_after=timezone.now())
    monkeypatch.setattr(sweep, "publish_call", refuse_the_second)
    sweep.send_unsent()

    assert [message.id for message in sent()] == [ids[0], ids[2]]


def test_headers_stay_small_and_the_row_has_everything() -> None:
    task: Any = plain.add
    result = task.apply_async((1, 2), argsrepr="x" * 200_000)

    headers = CallMessage.from_json(Call.objects.get().message).headers
    assert len(headers["argsrepr"]) == 1024
    row: Any = TaskResult.objects.get(task_id=result.id)
    assert len(row.task_args) == 200_002
