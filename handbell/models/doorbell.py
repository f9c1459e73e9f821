"""Doorbells: whether somebody has been told that there is work."""

from django.db import models


class Doorbell(models.Model):
    """Whether a doorbell has been rung and not yet answered.

    `name` is `lane:3`, `launches`, or `task:` with the name of a task whose calls are claimed several at a time.
    `ring_attempts` counts how often the sweeper had to ring again. The other two are of lanes, and stand here because a
    lane's own row is locked while it is drained: `crash_count` counts the drains that began and did not come to their
    first commit; `one_by_one` is how many operations are still to be run one at a time because of that.
    """

    name = models.CharField(max_length=255, primary_key=True)
    rung = models.BooleanField(default=False)
    rung_at = models.DateTimeField(null=True)
    ring_attempts = models.PositiveSmallIntegerField(default=0)
    crash_count = models.PositiveSmallIntegerField(default=0)
    one_by_one = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} ({'rung' if self.rung else 'quiet'})"
