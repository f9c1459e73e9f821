"""The ledger of plain tasks: one row per call that has not ended."""

from django.db import models
from django.db.models import Q


class Call(models.Model):
    """One call of a plain task, from the moment of the call until its result is stored; that is in its `TaskResult`.

    `message` is JSON: what the broker is given, and may be given again. `sent_at` is when the broker confirmed it.
    While nobody has claimed the call (`claimed_by` is empty), the sweeper sends the message once `send_after` has come.
    `claim_token` is new at each claim, and calls that were claimed together share one. `crash_count` counts the
    processes that died while they ran it. What `is_shared` is claimed with others, by priority, and has no message of
    its own: it rings the doorbell of its queue.
    """

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    queue = models.CharField(max_length=255)
    message = models.TextField()
    enqueued_at = models.DateTimeField()
    send_after = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    is_shared = models.BooleanField(default=False)
    priority = models.PositiveSmallIntegerField(default=0)
    claimed_by = models.CharField(max_length=255, default="")
    claim_token = models.BigIntegerField(null=True)
    crash_count = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ("id",)
        constraints = (models.UniqueConstraint(fields=["task_id"], name="call_task_id"),)
        indexes = (
            models.Index(
                fields=["send_after"], name="call_unsent", condition=Q(sent_at=None, claimed_by="", is_shared=False)
            ),
            models.Index(
                fields=["queue", "send_after"], name="call_waiting", condition=Q(sent_at__isnull=False, claimed_by="")
            ),
            models.Index(fields=["claimed_by"], name="call_claimed", condition=~Q(claimed_by="")),
            models.Index(
                fields=["queue", "-priority", "id"], name="call_shared", condition=Q(claimed_by="", is_shared=True)
            ),
        )

    def __str__(self) -> str:
        return f"{self.task_id} on {self.queue}"
