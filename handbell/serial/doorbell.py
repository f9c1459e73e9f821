"""The doorbells of lanes. A drain that answers one counts as crashed until its first commit."""

from collections.abc import Iterable
from typing import NamedTuple

from django.db import connection

from handbell.common.doorbell import DoorbellMessage
from handbell.queues import SERIAL

DRAIN = "handbell.drain"
_PREFIX = "lane:"

_ANSWER = (
    "UPDATE handbell_doorbell SET rung = %s, ring_attempts = 0, crash_count = crash_count + 1 WHERE {condition} "
    "RETURNING name, crash_count, one_by_one"
)
_RUNG_FIRST = f"SELECT name FROM handbell_doorbell WHERE rung AND name LIKE '{_PREFIX}%' ORDER BY rung_at LIMIT 1"


class AnsweredDoorbell(NamedTuple):
    """A lane whose doorbell was answered: how many of its drains have crashed so far, this one included until it
    commits, and how many operations are to be run one by one.
    """

    lane: int
    crash_count: int
    one_by_one: int


def doorbell_name(lane: int) -> str:
    return f"{_PREFIX}{lane}"


def lane_doorbell(lane: int) -> DoorbellMessage:
    return DoorbellMessage(doorbell_name(lane), DRAIN, (lane,), SERIAL)


def ring_lanes_after_commit(lanes: Iterable[int]) -> None:
    for lane in lanes:
        lane_doorbell(lane).ring_after_commit()


def answer(lane: int) -> AnsweredDoorbell | None:
    """Clear the flag, and count this drain as crashed until it commits. None if there is no such lane."""
    return _answer("name = %s", doorbell_name(lane))


def answer_another() -> AnsweredDoorbell | None:
    """Answer the doorbell that was rung first, if any is. Its message, when it arrives, finds nothing to do."""
    with connection.cursor() as cursor:
        cursor.execute(_RUNG_FIRST)
        found = cursor.fetchone()
    return _answer("name = %s AND rung", found[0]) if found else None


def _answer(condition: str, name: str) -> AnsweredDoorbell | None:
    with connection.cursor() as cursor:
        cursor.execute(_ANSWER.format(condition=condition), (False, name))
        found = cursor.fetchone()
    return AnsweredDoorbell(int(found[0].removeprefix(_PREFIX)), int(found[1]), int(found[2])) if found else None


def uncount_crash(lane: int) -> None:
    """Take back what `answer` counted: somebody else has the lane."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE handbell_doorbell SET crash_count = crash_count - 1 WHERE name = %s AND crash_count > 0",
            (doorbell_name(lane),),
        )


def reset_crashes(lane: int, one_by_one: int) -> None:
    """Note, with the drain's commit, that it has not crashed, and how many operations are yet to be run one by one."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE handbell_doorbell SET crash_count = 0, one_by_one = %s WHERE name = %s",
            (one_by_one, doorbell_name(lane)),
        )
