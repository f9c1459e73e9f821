"""The sweeper's part for launches: ring for those that wait, record the lost ones, and end what dead processes left."""

import logging
import socket
import time

from django.utils import timezone

from handbell import states
from handbell.common.codec import encode_error
from handbell.errors import ProcessDied
from handbell.isolated import orphans, sql
from handbell.isolated.doorbell import launches_doorbell
from handbell.models import Launch

ORPHANS_INTERVAL_SECONDS = 5.0  # reading the environment of every process takes a while
logger = logging.getLogger(__name__)


def sweep_launches() -> None:
    """Sweep once."""
    if sql.has_queued_launches():
        launches_doorbell.ring_again()
    _record_lost()
    if time.monotonic() >= _NextLook.for_orphans:
        orphans.end_orphans()
        _NextLook.for_orphans = time.monotonic() + ORPHANS_INTERVAL_SECONDS


class _NextLook:
    for_orphans = 0.0


def _record_lost() -> None:
    """Launches whose lease has expired are lost; what is left of them on this machine is ended."""
    now, host = timezone.now(), socket.gethostname()
    expired = Launch.objects.filter(status=states.RUNNING, lease_expires_at__lt=now)
    for launch in expired.only("supervisor", "host"):
        reason = f"lost: its supervisor on {launch.host} died or was cut off, and nobody knows how far it came"
        updated = expired.filter(pk=launch.pk).update(
            status=states.LOST,
            reason=reason,
            result=encode_error(ProcessDied(reason)),
            lease_expires_at=None,
            finished_at=now,
        )
        if updated:  # and not by another sweeper
            logger.error("Launch %s is %s.", launch.pk, reason)
            if launch.host == host:
                orphans.end_launches(launch.supervisor, {launch.pk})
