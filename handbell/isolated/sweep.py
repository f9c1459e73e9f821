"""The sweeper's part for launches: ring for those that wait, and end what dead processes left on its machine."""

import time

from handbell.isolated import orphans, sql
from handbell.isolated.doorbell import launches_doorbell

ORPHANS_INTERVAL_SECONDS = 5.0  # reading the environment of every process takes a while


def sweep_launches() -> None:
    """Sweep once."""
    if sql.has_queued_launches():
        launches_doorbell.ring_again()


def end_orphans_here() -> None:
    """End what belongs to no fork server of this machine any more; not at each call."""
    if time.monotonic() >= _NextLook.for_orphans:
        _NextLook.for_orphans = time.monotonic() + ORPHANS_INTERVAL_SECONDS
        orphans.end_orphans()


class _NextLook:
    for_orphans = 0.0
