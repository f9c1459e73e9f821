"""Doorbells: the one message that says "this lane has work", sent once however many callers have some.

A caller rings after its commit: whoever turns the flag from down to up sends the message. A drain puts the flag down
before it reads. So an operation that a drain did not see has found the flag down, and somebody sends a message for it.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from tasks_app import bell
from tasks_app.models import Doorbell
from tasks_app.queues import SERIAL

DRAIN = "tasks_app.serial.drain"


def ring_after_commit(lanes: Iterable[int]) -> None:
    for lane in lanes:
        # No partial: if it fails Django logs its name, and a partial has none. The caller's operation is safe by then.
        transaction.on_commit(lambda lane=lane: ring(lane), robust=True)  # type: ignore[misc]


def ring(lane: int) -> None:
    """Send the lane's doorbell, unless one is on its way."""
    with connection.cursor() as cursor:
        # Reading first spares the write: on a busy lane the flag is up nearly always.
        cursor.execute("SELECT 1 FROM tasks_app_doorbell WHERE lane_id = %s AND NOT rung", (lane,))
        if cursor.fetchone() is None:
            return
        cursor.execute(
            "UPDATE tasks_app_doorbell SET rung = %s, rung_at = %s, rings = 0 WHERE lane_id = %s AND NOT rung",
            (True, adapted(timezone.now()), lane),
        )
        changed = cursor.rowcount
    if changed:
        send(lane)


def send(lane: int) -> None:
    """Send the message. If the broker is down the sweeper sends it later: the operation is safe in the ledger."""
    bell.send(DRAIN, (lane,), SERIAL.name, f"The doorbell of lane {lane}")


class Answered(NamedTuple):
    """A doorbell that was answered: how many drains of the lane have died so far, this one included until it commits,
    and how many operations are to be run with care.
    """

    lane: int
    deaths: int
    careful: int


_ANSWER = (
    "UPDATE tasks_app_doorbell SET rung = %s, rings = 0, deaths = deaths + 1 WHERE {which} "
    "RETURNING lane_id, deaths, careful"
)
_RUNG_FIRST = "SELECT lane_id FROM tasks_app_doorbell WHERE rung ORDER BY rung_at LIMIT 1"


def answer(lane: int) -> Answered | None:
    """Put the flag down, and count this drain as dead until it commits. None if there is no such lane."""
    return _answer("lane_id = %s", lane)


def answer_another() -> Answered | None:
    """Answer the doorbell that was rung first. Its message, when it arrives, finds nothing to do."""
    with connection.cursor() as cursor:
        cursor.execute(_RUNG_FIRST)
        found = cursor.fetchone()
    return _answer("lane_id = %s AND rung", found[0]) if found else None


def _answer(which: str, lane: int) -> Answered | None:
    with connection.cursor() as cursor:
        cursor.execute(_ANSWER.format(which=which), (False, lane))
        found = cursor.fetchone()
    return Answered(*map(int, found)) if found else None


def not_dead(lane: int) -> None:
    """Take back what `answer` counted: somebody else has the lane."""
    Doorbell.objects.filter(pk=lane, deaths__gt=0).update(deaths=F("deaths") - 1)


def alive(lane: int, careful: int) -> None:
    """The drain commits, so it has not died."""
    Doorbell.objects.filter(pk=lane).update(deaths=0, careful=careful)


def adapted(moment: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(moment)
