"""The sweeper's part for lanes: ring where somebody should have rung, and let in what was to wait until now."""

from datetime import timedelta

from django.db import connection
from django.utils import timezone

from handbell import states
from handbell.common.doorbell import adapted
from handbell.models import Operation
from handbell.serial.doorbell import lane_doorbell

QUIET = timedelta(seconds=1)  # a lane that was drained a moment ago is being drained

# Lanes in which an operation waits that nobody works on: a few index look-ups each, however many operations wait.
_WAITING = """
    SELECT lane.id FROM handbell_lane AS lane
    WHERE NOT lane.paused AND lane.blocked_by IS NULL AND (lane.drained_at IS NULL OR lane.drained_at < %s)
      AND EXISTS (SELECT 1 FROM handbell_operation AS o
                  WHERE o.lane = lane.id AND o.status IN ('queued', 'running') AND o.not_before IS NULL)
      AND NOT EXISTS (SELECT 1 FROM handbell_operation AS o
                      WHERE o.lane = lane.id AND o.status = 'running' AND o.lease_expires_at > %s)
"""


def sweep() -> None:
    """Look at every lane once."""
    _let_in_what_is_due()
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, (adapted(now - QUIET), adapted(now)))
        waiting = [int(row[0]) for row in cursor.fetchall()]
    for lane in waiting:
        lane_doorbell(lane).ring_again()


def _let_in_what_is_due() -> None:
    """Operations with a countdown or eta take their place in the lane, by their ids, once it has come."""
    due = Operation.objects.filter(status=states.QUEUED, not_before__lte=timezone.now())
    lanes = set(due.values_list("lane", flat=True).distinct())
    if lanes:
        due.update(not_before=None)
        for lane in lanes:
            lane_doorbell(lane).ring()
