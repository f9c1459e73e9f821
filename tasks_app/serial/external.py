"""External operations: effects outside the database, so not within a transaction, at least once, one at a time.

A claim with an expiry takes the place of the lock: while it holds, no drain passes the operation. Its owner renews
it. When the owner is gone the claim expires and the operation is run again, with a higher attempt number; a late
owner's result is refused.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from tasks_app import states
from tasks_app.heartbeat import beating
from tasks_app.models import Operation
from tasks_app.serial import ledger
from tasks_app.serial.apply import Pending, decode, describe, encode, find


class Claim(NamedTuple):
    operation: Pending
    attempt: int
    started_at: datetime


def is_external(name: str) -> bool:
    task = find(name)
    return task is not None and task.external


def claim(operation: Pending, seconds: float | None = None) -> Claim:
    """Make it ours, in the drain's transaction."""
    now, attempt = timezone.now(), operation.attempts + 1
    until = now + (_lease() if seconds is None else timedelta(seconds=seconds))
    Operation.objects.filter(pk=operation.id).update(
        status=states.RUNNING, attempts=attempt, started_at=now, owner_until=until
    )
    return Claim(operation, attempt, now)


def is_still_ours(claim: Claim) -> bool:
    """Whether nobody else has claimed it since, under the lane's lock. If it is, `ledger.complete` comes next."""
    return bool(_ours(claim).update(attempts=claim.attempt - 1))  # `complete` counts it


def _ours(claim: Claim) -> QuerySet[Operation]:
    # The attempt alone would not do: a retry begins to count anew.
    return Operation.objects.filter(
        pk=claim.operation.id, attempts=claim.attempt, started_at=claim.started_at, status=states.RUNNING
    )


def run(lane: int, claim: Claim) -> None:
    """Run the function, outside any transaction, and write what came of it, if the claim is still ours by then."""
    operation = claim.operation
    task = find(operation.task)
    assert task is not None, "claim() comes first"
    args, kwargs = decode(operation.arguments)
    succeeded, failed = [], []
    with beating(settings.SERIAL_LEASE_SECONDS / 3, lambda: _renew(claim)):
        try:
            succeeded.append((operation.id, encode(task, task.run(*args, **kwargs))))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it is, it is the operation's own)
            failed.append(describe(operation.id, error, blocks=task.blocks))
    with transaction.atomic():
        ledger.lock(lane, wait=True)
        if is_still_ours(claim):
            ledger.complete(lane, succeeded, failed, claim.started_at)


def _renew(claim: Claim) -> None:
    _ours(claim).update(owner_until=timezone.now() + _lease())


def _lease() -> timedelta:
    return timedelta(seconds=settings.SERIAL_LEASE_SECONDS)
