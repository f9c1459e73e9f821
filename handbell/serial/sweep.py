"""The sweeper's part for lanes: ring where a doorbell was lost, and admit scheduled operations that have become due."""

from datetime import timedelta

from django.db import connection
from django.utils import timezone

from handbell import states
from handbell.common.doorbell import adapt_datetime
from handbell.models import Operation
from handbell.serial.doorbell import lane_doorbell

MAX_ADMITTED_OPERATIONS = 500  # in one statement: it locks their rows
RECENT_DRAIN = timedelta(seconds=1)  # a lane that was drained a moment ago is being drained

# Lanes in which an operation waits that nobody works on: a few index look-ups each, however many operations wait.
_LANES_WITH_WORK = """
    SELECT lane.id FROM handbell_lane AS lane
    WHERE NOT lane.paused AND lane.blocked_by IS NULL AND (lane.drained_at IS NULL OR lane.drained_at < %s)
      AND EXISTS (SELECT 1 FROM handbell_operation AS o
                  WHERE o.lane = lane.id AND o.status IN ('queued', 'running') AND o.not_before IS NULL)
      AND NOT EXISTS (SELECT 1 FROM handbell_operation AS o
                      WHERE o.lane = lane.id AND o.status = 'running')
"""


def sweep_lanes() -> None:
    """Sweep once."""
    _admit_due_operations()
    with connection.cursor() as cursor:
        cursor.execute(_LANES_WITH_WORK, (adapt_datetime(timezone.now() - RECENT_DRAIN),))
        waiting = [int(row[0]) for row in cursor.fetchall()]
    for lane in waiting:
        lane_doorbell(lane).ring_again()


def _admit_due_operations() -> None:
    """Operations whose countdown or eta has come take their place in the lane, in the order of their ids."""
    due = Operation.objects.filter(status=states.QUEUED, not_before__lte=timezone.now()).order_by("id")
    while found := list(due.values_list("id", "lane")[:MAX_ADMITTED_OPERATIONS]):
        due.filter(pk__in=[pk for pk, _ in found]).update(not_before=None)
        for lane in {lane for _, lane in found}:
            lane_doorbell(lane).ring()
