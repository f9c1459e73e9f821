"""Claims that outlive what they were made for.

Work ends with a commit that takes its claim away. A database may lose its last commits: it crashed and had not waited
for its disk, or a replica that was behind has taken its place. The claim is there again then, and its owner, who is
alive, has done with it. Without anybody who gives it back, a lane would stand still for as long as its worker lives.
"""

import logging
from collections.abc import Callable, Mapping

from handbell.common.activity import changes_by_process
from handbell.common.claims import WORKER_ID
from handbell.models.owner import OF_WORKER
from handbell.recovery import claims_of, release_claims

logger = logging.getLogger(__name__)


class ForgottenClaims:
    """What this worker's main process has seen of the claims of its processes."""

    def __init__(self, changes: Callable[[], Mapping[int, int]] = changes_by_process) -> None:
        self._changes = changes
        self._first_seen: dict[int, int] = {}  # how often its process had changed when a claim was seen first, by token

    def release(self) -> None:
        """Give back what was claimed for a task that has ended since it was seen, and is claimed all the same."""
        changes_before = self._changes()
        pids = {token: int(owner.partition(OF_WORKER)[2] or 0) for token, owner in claims_of(WORKER_ID).items()}
        changes_after = self._changes()
        forgotten = [
            token
            for token, pid in pids.items()
            if token in self._first_seen and _has_ended(self._first_seen[token], changes_before.get(pid))
        ]
        self._first_seen = {
            token: self._first_seen.get(token, changes_after[pid])
            for token, pid in pids.items()
            if pid in changes_after
        }
        if forgotten:
            logger.warning(
                "The database has forgotten how %s claims of this worker ended. They run again.", len(forgotten)
            )
            release_claims(WORKER_ID, forgotten)


def _has_ended(first_seen: int, now: int | None) -> bool:
    """Whether a process has run nothing at some time since then: the number of its changes is even while it does."""
    return now is not None and (first_seen % 2 == 0 or now > first_seen)
