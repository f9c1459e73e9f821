"""Watching and steering lanes: overview, pause and resume, skip and retry, another number of lanes."""

from datetime import timedelta
from typing import NamedTuple

from celery.exceptions import TaskRevokedError
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from handbell import states
from handbell.arguments import require_key, shown
from handbell.common.codec import encode_error
from handbell.errors import LaneRefused
from handbell.models import Doorbell, Lane, LaneCount, Operation, lane_of
from handbell.serial.doorbell import doorbell_name, ring_lanes_after_commit

MAX_LANES = 1024
MAX_DEPTH_COUNTED = 10_000  # so that looking costs little
MAX_MOVE_ROWS = 5_000
MAX_LOCK_SECONDS = 5.0  # for which a change of their number waits for those who use lanes, and they for it


class LaneOverview(NamedTuple):
    """A lane at a glance. `depth` counts up to 10,000; `oldest` is how long its first operation has waited."""

    lane: Lane
    depth: int
    oldest: timedelta | None

    @property
    def state(self) -> str:
        if self.lane.blocked_by is not None:
            return f"blocked by operation {self.lane.blocked_by}"
        return "paused" if self.lane.paused else "open"


def overview() -> list[LaneOverview]:
    """Every lane, in the order of their numbers."""
    return [lane_overview(lane) for lane in Lane.objects.all()]


def lane_overview(lane: Lane) -> LaneOverview:
    """One lane: its depth and the age of its oldest operation."""
    waiting = Operation.objects.filter(lane=lane.pk, status__in=states.UNFINISHED, not_before=None).order_by("id")
    oldest = waiting.values_list("enqueued_at", flat=True).first()
    if oldest is None:
        return LaneOverview(lane, 0, None)
    return LaneOverview(lane, waiting[:MAX_DEPTH_COUNTED].count(), timezone.now() - oldest)


def pause(lane: int) -> None:
    """Let no further batch begin; the one that runs is finished."""
    _update_lane(lane, paused=True)


def resume(lane: int) -> None:
    """Go on after a pause."""
    _update_lane(lane, paused=False)
    ring_lanes_after_commit([lane])


def skip(lane: int) -> None:
    """Leave the failed operation that blocks the lane as it is, and go on after it."""
    with transaction.atomic():
        _require_blocked(lane)
        _update_lane(lane, blocked_by=None)
        ring_lanes_after_commit([lane])


def retry(lane: int) -> None:
    """Run the failed operation that blocks the lane again, before all others."""
    with transaction.atomic():
        retry_operation(_require_blocked(lane))


def retry_operation(operation_id: int) -> None:
    """Queue a failed operation again; by its id it comes before those that were enqueued after it. A lane that it
    blocks goes on with it.
    """
    require_key("operation", operation_id)
    with transaction.atomic():
        # This comes first: from here to the commit nobody changes the number of lanes.
        Lane.objects.filter(blocked_by=operation_id).update(blocked_by=None)
        failed = Operation.objects.filter(pk=operation_id, status__in=[states.FAILED, states.LOST])
        key = failed.values_list("key", flat=True).first()
        if key is None:
            raise LaneRefused(f"Operation {operation_id} is not retried: it has not failed.")
        lane = lane_of(key, LaneCount.objects.values_list("count", flat=True).get(pk=1))
        failed.update(
            status=states.QUEUED, lane=lane, result=None, traceback=None, attempts=0, started_at=None, finished_at=None
        )
        ring_lanes_after_commit([lane])


def cancel_operation(operation_id: int) -> None:
    """Take an operation that has not begun out of its lane."""
    require_key("operation", operation_id)
    with transaction.atomic():
        waiting = Operation.objects.filter(pk=operation_id, status=states.QUEUED)
        lane = waiting.values_list("lane", flat=True).first()
        # A drain that has read the operation may be applying it: let it finish first.
        Lane.objects.select_for_update().filter(pk__in=[lane]).first()
        error = encode_error(TaskRevokedError("cancelled"))  # what `get()` raises
        if not waiting.filter(lane__in=[lane]).update(
            status=states.CANCELLED, result=error, finished_at=timezone.now()
        ):
            raise LaneRefused(f"Operation {operation_id} is not cancelled: it does not wait any more.")


def resize(count: int) -> int:
    """Have `count` lanes; how many waiting operations moved. Nothing is reordered: enqueueing and draining wait
    meanwhile.

    Raises:
        LaneRefused: `count` is out of range, a lane is blocked, an external operation is running, or a transaction
            has used lanes for more than five seconds.
    """
    if not isinstance(count, int) or not 1 <= count <= MAX_LANES:
        raise LaneRefused(f"There can be 1 to {MAX_LANES} lanes, not {shown(count)}.")
    with transaction.atomic():
        if connection.vendor == "postgresql":  # SQLite: the transaction began with the write lock
            _lock_tables()
        if Operation.objects.filter(status=states.RUNNING).exists():
            raise LaneRefused("An external operation is running. Change the number of lanes when it has finished.")
        if Lane.objects.filter(blocked_by__isnull=False).exists():
            raise LaneRefused("A lane is blocked. Skip or retry what blocks it, then change the number of lanes.")
        LaneCount.objects.update_or_create(pk=1, defaults={"count": count})
        for number in range(count):
            Lane.objects.get_or_create(pk=number)
            Doorbell.objects.get_or_create(pk=doorbell_name(number))
        moved = _move_waiting(count)
        removed = list(Lane.objects.filter(pk__gte=count).values_list("pk", flat=True))
        Doorbell.objects.filter(pk__in=[doorbell_name(number) for number in removed]).delete()
        Lane.objects.filter(pk__in=removed).delete()
        ring_lanes_after_commit(
            Operation.objects.filter(status=states.QUEUED).values_list("lane", flat=True).distinct().order_by()
        )
    return moved


def _lock_tables() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET LOCAL lock_timeout = {int(MAX_LOCK_SECONDS * 1000)}; "
                "LOCK TABLE handbell_lane, handbell_operation IN EXCLUSIVE MODE; "
                "SET LOCAL lock_timeout = DEFAULT"
            )
    except OperationalError as error:
        if "lock timeout" not in str(error):
            raise
        raise LaneRefused(
            f"A transaction has used lanes for more than {MAX_LOCK_SECONDS:g} s, so their number was not changed. Try "
            "again; `SELECT * FROM pg_stat_activity WHERE state LIKE 'idle in%'` shows transactions left open."
        ) from error


def _move_waiting(count: int) -> int:
    waiting, moved, last = Operation.objects.filter(status=states.QUEUED), 0, 0
    while part := list(waiting.filter(pk__gt=last).order_by("id")[:MAX_MOVE_ROWS]):
        last = part[-1].pk
        changed = []
        for operation in part:
            lane = lane_of(operation.key, count)
            if lane != operation.lane:
                operation.lane = lane
                changed.append(operation)
        Operation.objects.bulk_update(changed, ["lane"], batch_size=500)
        moved += len(changed)
    return moved


def _update_lane(lane: int, **values: object) -> None:
    if not Lane.objects.filter(pk=require_key("lane", lane)).update(**values):
        raise LaneRefused(f"There is no lane {lane}. `manage.py handbell lanes` lists them.")


def _require_blocked(lane: int) -> int:
    """The operation that blocks the lane.

    Raises:
        LaneRefused: none does.
    """
    blocking = (
        Lane.objects.select_for_update()
        .filter(pk=require_key("lane", lane))
        .values_list("blocked_by", flat=True)
        .first()
    )
    if blocking is None:
        raise LaneRefused(f"Lane {lane} is not blocked.")
    return blocking
