"""The sweeper's part for launches: ring where somebody should have rung, and give up what nobody looks after."""

import logging
import socket
import time
from datetime import timedelta

from django.db.models import F
from django.utils import timezone

from tasks_app import states
from tasks_app.errors import ProcessDied
from tasks_app.isolated import doorbell, endings, ledger, orphans
from tasks_app.models import Launch, LaunchBell

LONGEST_WAIT_SECONDS = 16
ORPHANS_SECONDS = 5.0
logger = logging.getLogger(__name__)


def sweep() -> None:
    """Look once."""
    _ring()
    _give_up_the_lost()
    if time.monotonic() >= _Orphans.next:
        orphans.end_orphans()
        _Orphans.next = time.monotonic() + ORPHANS_SECONDS


class _Orphans:
    next = 0.0


def _ring() -> None:
    """The message may have been lost. Wait twice as long each time: it may as well be waiting behind others."""
    if not ledger.waiting():
        return
    bell = LaunchBell.objects.filter(pk=1).first()
    if bell is None or not bell.rung or bell.rung_at is None:
        doorbell.ring()  # whoever enqueued died before it could, or everybody is at work
        return
    patience = timedelta(seconds=min(2**bell.rings, LONGEST_WAIT_SECONDS))
    late = LaunchBell.objects.filter(pk=1, rung=True, rings=bell.rings, rung_at__lt=timezone.now() - patience)
    if late.update(rings=F("rings") + 1, rung_at=timezone.now()):
        doorbell.send()


def _give_up_the_lost() -> None:
    """Launches whose supervisor has not been heard of are lost; what is left of them on this machine is ended."""
    now, host = timezone.now(), socket.gethostname()
    expired = Launch.objects.filter(status=states.RUNNING, owner_until__lt=now)
    for launch in expired.only("supervisor", "host"):
        reason = f"lost: its supervisor on {launch.host} died or was cut off, and nobody knows how far it came"
        given_up = expired.filter(pk=launch.pk).update(
            status=states.LOST,
            reason=reason,
            result=endings.error(ProcessDied(reason)),
            owner_until=None,
            finished_at=now,
        )
        if given_up:
            logger.error("Launch %s is %s.", launch.pk, reason)
            if launch.host == host:
                orphans.end_launches(launch.supervisor, {launch.pk})
