"""Launches whose supervisor is dead or silent: nobody knows how far they came, and they are not started again."""

import logging
import socket
from collections.abc import Collection, Iterable

from django.utils import timezone

from handbell import states
from handbell.common.codec import encode_error
from handbell.errors import ProcessDied
from handbell.isolated import orphans
from handbell.models import Launch

logger = logging.getLogger(__name__)


def launch_owners() -> Iterable[str]:
    """By whom launches are claimed."""
    running = Launch.objects.filter(status=states.RUNNING)
    return running.order_by().values_list("claimed_by", flat=True).distinct()


def record_lost_launches(owner: str, why: str = "", only: Collection[int] | None = None) -> None:
    """Record what this owner had claimed as lost, or only these launches, and end what is left of it on this machine.
    By default the owner is dead or silent.
    """
    claimed = Launch.objects.filter(claimed_by=owner, status=states.RUNNING)
    lost = claimed if only is None else claimed.filter(pk__in=only)
    for launch in lost.only("claim_token", "fork_server", "host"):
        silent = f"its supervisor on {launch.host} died or was cut off, and nobody knows how far it came"
        reason = f"lost: {why or silent}"
        updated = claimed.filter(pk=launch.pk, claim_token=launch.claim_token).update(
            status=states.LOST,
            reason=reason,
            result=encode_error(ProcessDied(reason)),
            claimed_by="",
            claim_token=None,
            finished_at=timezone.now(),
        )
        if updated:  # and not by another sweeper
            logger.error("Launch %s is %s.", launch.pk, reason)
            if launch.host == socket.gethostname():
                orphans.end_launches(launch.fork_server, {launch.pk})
