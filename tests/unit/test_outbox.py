"""Messages of calls: after an outage of the broker each is sent once more."""

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from kombu.exceptions import OperationalError

from handbell.common import broker
from handbell.models import Call
from handbell.plain import sweep
from handbell.plain.message import Message as CallMessage
from tests import plain
from tests.unit.conftest import Message

pytestmark = pytest.mark.django_db(transaction=True)


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
