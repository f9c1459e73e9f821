"""The doorbells of lanes. Whoever answers one is known until its first commit: if it dies before that, something in its
batch may have killed it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from django.db import connection
from django.db.models import F

from handbell.common.claims import claim_owner
from handbell.common.doorbell import DoorbellMessage
from handbell.models import Doorbell
from handbell.models.owner import is_seen_dead, rows_claimed_by
from handbell.queues import SERIAL

DRAIN = "handbell.drain"
_PREFIX = "lane:"

_ANSWER = (
    "UPDATE handbell_doorbell SET rung = %s, ring_attempts = 0, "
    "claimed_by = CASE claimed_by WHEN '' THEN %s ELSE claimed_by END WHERE {condition} "
    "RETURNING name, crash_count, one_by_one, claimed_by"
)
_RUNG_FIRST = f"SELECT name FROM handbell_doorbell WHERE rung AND name LIKE '{_PREFIX}%' ORDER BY rung_at LIMIT 1"


class AnsweredDoorbell(NamedTuple):
    """A lane whose doorbell was answered: how many of its drains have crashed, and how many operations are to be run
    one by one.
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
    """Clear the flag, and be the one who drains the lane, unless somebody does. None if there is no such lane."""
    return _answer("name = %s", doorbell_name(lane))


def answer_another() -> AnsweredDoorbell | None:
    """Answer the doorbell that was rung first, if any is. Its message, when it arrives, finds nothing to do."""
    with connection.cursor() as cursor:
        cursor.execute(_RUNG_FIRST)
        found = cursor.fetchone()
    return _answer("name = %s AND rung", found[0]) if found else None


def _answer(condition: str, name: str) -> AnsweredDoorbell | None:
    with connection.cursor() as cursor:
        cursor.execute(_ANSWER.format(condition=condition), (False, claim_owner(), name))
        found = cursor.fetchone()
    if not found:
        return None
    name, crash_count, one_by_one, owner = found
    if owner != claim_owner() and is_seen_dead(owner):  # its worker has not seen it yet
        count_crashes(owner)
        return _answer("name = %s", name)
    return AnsweredDoorbell(int(name.removeprefix(_PREFIX)), int(crash_count), int(one_by_one))


def leave(lane: int) -> None:
    """This process does not drain the lane any more; or another one does."""
    Doorbell.objects.filter(pk=doorbell_name(lane), claimed_by=claim_owner()).update(claimed_by="")


def note_commit(lane: int, one_by_one: int) -> None:
    """Note, with a drain's commit, that nothing has killed it, and how many operations are yet to be run one by one."""
    Doorbell.objects.filter(pk=doorbell_name(lane)).update(crash_count=0, one_by_one=one_by_one, claimed_by="")


def drain_owners() -> Iterable[str]:
    """Who drains lanes, and has not committed yet."""
    return Doorbell.objects.exclude(claimed_by="").order_by().values_list("claimed_by", flat=True).distinct()


def count_crashes(owner: str) -> None:
    """Whoever had answered doorbells is dead."""
    answered = rows_claimed_by(Doorbell.objects.exclude(claimed_by=""), owner)
    answered.update(crash_count=F("crash_count") + 1, claimed_by="")


def release_drains(owner: str) -> None:
    """Whoever had answered doorbells leaves, and nothing has killed it."""
    rows_claimed_by(Doorbell.objects.exclude(claimed_by=""), owner).update(claimed_by="")
