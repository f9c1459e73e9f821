"""The sweeper's part for lanes: ring where somebody should have rung, and let in what was to wait until now."""

from datetime import timedelta

from django.db import connection
from django.db.models import F
from django.utils import timezone

from tasks_app import states
from tasks_app.models import Doorbell, Operation
from tasks_app.serial.doorbell import adapted, ring, send

QUIET = timedelta(seconds=1)  # a lane that was drained a moment ago is being drained
LONGEST_WAIT_SECONDS = 64

# Lanes in which an operation waits that nobody works on: a few index look-ups each, however many operations wait.
_WAITING = """
    SELECT lane.id, bell.rung, bell.rung_at, bell.rings
    FROM tasks_app_lane AS lane JOIN tasks_app_doorbell AS bell ON bell.lane_id = lane.id
    WHERE NOT lane.paused AND lane.blocked_by IS NULL AND (lane.drained_at IS NULL OR lane.drained_at < %s)
      AND EXISTS (SELECT 1 FROM tasks_app_operation AS o
                  WHERE o.lane = lane.id AND o.status IN ('queued', 'running') AND o.not_before IS NULL)
      AND NOT EXISTS (SELECT 1 FROM tasks_app_operation AS o
                      WHERE o.lane = lane.id AND o.status = 'running' AND o.owner_until > %s)
"""


def sweep() -> None:
    """Look at every lane once."""
    _let_in_what_is_due()
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, (adapted(now - QUIET), adapted(now)))
        waiting = [(int(row[0]), bool(row[1]), int(row[3])) for row in cursor.fetchall()]
    for lane, rung, rings in waiting:
        if rung:
            _ring_again(lane, rings)
        else:
            ring(lane)  # whoever enqueued died before it could


def _ring_again(lane: int, rings: int) -> None:
    """The message may have been lost. Wait twice as long each time: it may as well be waiting behind others."""
    patience = timedelta(seconds=min(2 ** (rings + 1), LONGEST_WAIT_SECONDS))
    late = Doorbell.objects.filter(pk=lane, rung=True, rings=rings, rung_at__lt=timezone.now() - patience)
    if late.update(rings=F("rings") + 1, rung_at=timezone.now()):
        send(lane)


def _let_in_what_is_due() -> None:
    """Operations with a countdown or eta take their place in the lane, by their ids, once it has come."""
    due = Operation.objects.filter(status=states.QUEUED, not_before__lte=timezone.now())
    lanes = set(due.values_list("lane", flat=True).distinct())
    if lanes:
        due.update(not_before=None)
        for lane in lanes:
            ring(lane)
