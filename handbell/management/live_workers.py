"""The workers that live, as the ledger's registry of owners has them: for where nobody can ask the workers."""

import time

from handbell.common.leases import beat_seconds
from handbell.common.process_id import is_dead, is_on_this_machine
from handbell.models import Owner

LATE_SECONDS = 2.0  # that a beat may come later than it should
POLL_SECONDS = 0.1


def live_workers() -> dict[str, list[str]]:
    """The queues of each worker that lives. Those of this machine are looked up; a beat of the others is waited for.

    Raises:
        django.db.Error: the ledger cannot be read.
    """
    workers = [owner for owner in Owner.objects.filter(kind=Owner.WORKER) if not is_dead(owner.pk)]
    elsewhere = {owner.pk: owner.beats for owner in workers if not is_on_this_machine(owner.pk)}
    silent = _without_beat(elsewhere)
    return {owner.name: sorted(owner.queues) for owner in workers if owner.pk not in silent}


def _without_beat(beats: dict[str, int]) -> set[str]:
    """Those of these owners whose counters do not change for longer than one that lives would take."""
    deadline = time.monotonic() + beat_seconds() + LATE_SECONDS
    silent = set(beats)
    while silent and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = Owner.objects.filter(pk__in=silent).values_list("pk", "beats")
        silent -= {owner for owner, beat in now if beat != beats[owner]}
    return silent
