"""Doorbells: whether somebody has been told that there is work."""

from django.db import models
from django.db.models import Q


class Doorbell(models.Model):
    """Whether a doorbell has been rung and not yet answered.

    `name` is `lane:3`, `launches`, or `queue:` with the name of a queue whose calls share claims. `ring_attempts`
    counts how often the sweeper had to ring again. The other three are of lanes, and stand here because a lane's own
    row is locked while it is drained: `claimed_by` is the process that drains the lane, until its first commit;
    `crash_count` counts those that died before that; `one_by_one` is how many operations are still to be run one at a
    time because of that.
    """

    name = models.CharField(max_length=255, primary_key=True)
    rung = models.BooleanField(default=False)
    rung_at = models.DateTimeField(null=True)
    ring_attempts = models.PositiveSmallIntegerField(default=0)
    claimed_by = models.CharField(max_length=255, default="", db_default="")
    crash_count = models.PositiveSmallIntegerField(default=0)
    one_by_one = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = (models.Index(fields=["claimed_by"], name="doorbell_claimed", condition=~Q(claimed_by="")),)

    def __str__(self) -> str:
        return f"{self.name} ({'rung' if self.rung else 'quiet'})"
