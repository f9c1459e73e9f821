"""Who has claims and is dead, and what becomes of these claims.

A process of this machine is dead when the kernel does not know it any more. Any other is, when it has been silent for
the lease. Every write is conditional on the claim that was found, so several may do this at the same time.
"""

import logging
from collections.abc import Collection

from handbell.common.claims import WORKER_ID
from handbell.common.leases import SilenceWatch
from handbell.common.process_id import is_dead, is_on_this_machine, machine_id
from handbell.conf import conf
from handbell.isolated.lost import launch_owners, record_lost_launches
from handbell.models import Call, Owner
from handbell.models.owner import registered_owner, rows_claimed_by
from handbell.parallel.recover import chunk_owners, ending_jobs, recover_chunks, release_chunks, running_chunks
from handbell.plain.crash_recovery import call_owners, recover_calls, release_calls
from handbell.serial.interrupted import (
    operation_owners,
    recover_operations,
    release_claimed_operations,
    running_operations,
)

logger = logging.getLogger(__name__)


def release_claims(owner: str, tokens: Collection[int] | None = None) -> None:
    """When a worker leaves: give back what it or its processes have claimed, without counting a crash. With `tokens`:
    only what was claimed under these, for nobody knows how it ended.
    """
    release_calls(owner, tokens)
    release_chunks(owner, tokens)
    release_claimed_operations(owner, tokens)


def claims_of(owner: str) -> dict[int, str]:
    """The tokens under which this worker's processes have claimed calls, operations, chunks and the ends of jobs, and
    which process it was.
    """
    claimed = (Call.objects.all(), running_operations(), running_chunks(), ending_jobs())
    found: dict[int, str] = {}
    for rows in claimed:
        found.update(rows_claimed_by(rows, owner).order_by().values_list("claim_token", "claimed_by"))
    return found


def recover_claims(owner: str, reason: str) -> None:
    """Give back what a dead process, or a dead worker, had claimed; what may not begin twice is lost."""
    recover_calls(owner, reason)
    recover_chunks(owner)
    recover_operations(owner)
    record_lost_launches(owner)


def recover_from_dead_processes() -> None:
    """Recover from the deaths of whoever is registered, ran on this machine, and is gone from it."""
    for owner in Owner.objects.filter(pk__startswith=f"{machine_id()} "):
        if is_dead(owner.pk):
            _recover(owner.pk, "died")


class SilentOwners:
    """For whoever has the sweeper's turn: the owners of claims that are not heard of any more."""

    def __init__(self) -> None:
        self._watch: SilenceWatch[str] = SilenceWatch()

    def recover(self) -> None:
        """Look at everybody's counter, and recover from those who have been silent for the lease."""
        claims = (*call_owners(), *chunk_owners(), *operation_owners(), *launch_owners())
        owners = set(map(registered_owner, claims))  # read before the registry: a new one is in there first
        beats = dict(Owner.objects.values_list("pk", "beats"))
        self._watch.look({owner: beats.get(owner) for owner in (owners | beats.keys()) - {WORKER_ID}})
        for owner in self._watch.silent(conf.LEASE_SECONDS):
            if owner in beats or not is_on_this_machine(owner) or is_dead(owner):
                _recover(owner, "died or was cut off")


def _recover(owner: str, what: str) -> None:
    logger.warning("%s %s. What it had claimed is given back.", owner, what)
    recover_claims(owner, f"the worker that ran it {what}")
    Owner.objects.filter(pk=owner).delete()
