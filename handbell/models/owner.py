"""The registry of processes that may have claims."""

import secrets
from collections.abc import Collection
from typing import TypeVar

from django.db import models
from django.db.models import F, Q, QuerySet

from handbell.common.process_id import is_dead_pid, is_on_this_machine

Row = TypeVar("Row", bound=models.Model)
MAX_FIRST_BEAT_BITS = 62  # of the 63 that fit into the column
OF_WORKER = "#"  # between the id of a worker and that of one of its processes


class Owner(models.Model):
    """A process that is alive: it changes `beats` every few seconds. `name` is its worker's, `queues` are those that
    it takes, and `launch_fence` says by what launches are held together there.
    """

    WORKER, SUPERVISOR = "worker", "supervisor"

    id = models.CharField(max_length=255, primary_key=True)
    kind = models.CharField(max_length=10, choices=[(word, word) for word in (WORKER, SUPERVISOR)])
    name = models.CharField(max_length=255)
    beats = models.BigIntegerField(default=0)
    queues = models.JSONField(default=list)
    launch_fence = models.CharField(max_length=50, default="")

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def beat(self) -> None:
        """Show that this process is alive. Its row may have been deleted, by somebody who took it for dead.

        A new row begins to count anywhere: otherwise one that comes and goes would look as if it never changed.
        """
        if not Owner.objects.filter(pk=self.pk).update(beats=F("beats") + 1):
            self.beats = secrets.randbits(MAX_FIRST_BEAT_BITS)
            Owner.objects.bulk_create([self], ignore_conflicts=True)


def is_taken(queue: str) -> bool:
    """Whether a worker that is alive takes this queue."""
    return any(queue in queues for queues in Owner.objects.filter(kind=Owner.WORKER).values_list("queues", flat=True))


def registered_owner(claimed_by: str) -> str:
    """The id in this registry of whoever has claimed something: a worker's, for all of its processes."""
    return claimed_by.partition(OF_WORKER)[0]


def is_seen_dead(claimed_by: str) -> bool:
    """Whether a process that has claimed something is one of this machine and does not exist any more. Another that
    has its number by now passes for it.
    """
    worker, _, pid = claimed_by.partition(OF_WORKER)
    return is_on_this_machine(worker) and is_dead_pid(int(pid))


def rows_claimed_by(rows: QuerySet[Row], owner: str, tokens: Collection[int] | None = None) -> QuerySet[Row]:
    """Those of these claimed rows that this process has claimed, or any process of the worker with this id; of these,
    if there are `tokens`, what was claimed under one of them.
    """
    claimed = rows.filter(Q(claimed_by=owner) | Q(claimed_by__startswith=f"{owner}{OF_WORKER}"))
    return claimed if tokens is None else claimed.filter(claim_token__in=tokens)
