"""Cancelling launches, and looking for what is left of them."""

import socket
from collections.abc import Iterable

from django.utils import timezone

from handbell import states
from handbell.arguments import require_key
from handbell.errors import LaunchRefused
from handbell.isolated import outcomes
from handbell.isolated.process_labels import ProcessLabel, label_of
from handbell.models import Launch


def cancel(launch: int) -> str:
    """Cancel a launch, given by its primary key. A queued one is cancelled at once; one that runs is ended by its
    supervisor within a moment.

    Returns the state that it is in now.

    Raises:
        TypeError: it is no primary key.
        LaunchRefused: there is no such launch, or it is over.
    """
    found = Launch.objects.filter(pk=require_key("launch", launch))
    if found.filter(status=states.QUEUED).update(
        status=states.CANCELLED,
        reason="cancelled before it began",
        result=outcomes.CANCELLED_ERROR,
        finished_at=timezone.now(),
    ):
        return states.CANCELLED
    if found.filter(status=states.RUNNING).update(cancel_requested=True):
        return states.RUNNING
    status = found.values_list("status", flat=True).first()
    if status is None:
        raise LaunchRefused(f"There is no launch {launch}. `manage.py handbell launches` lists them.")
    raise LaunchRefused(f"Launch {launch} is not cancelled: it is over ({status.replace('_', ' ')}).")


def survivors(launches: Iterable[Launch]) -> int:
    """Of how many of these launches the process still exists on this machine."""
    here = socket.gethostname()
    return sum(
        label_of(launch.pid) == ProcessLabel(launch.fork_server, launch.pk)
        for launch in launches
        if launch.pid is not None and launch.host == here
    )
