"""The ledger of plain tasks: one row per call that has not ended."""

from django.db import models
from django.db.models import Q


class Call(models.Model):
    """One call of a plain task, from the moment of the call until its result is stored; that is in its `TaskResult`.

    `message` is JSON: what the broker is given, and may be given again. `sent_at` is when the broker confirmed it.
    While no worker has claimed the call (`worker` is empty), the sweeper sends the message once `send_after` has come.
    `crash_count` counts the processes that died while they ran it. `batch_key` is the task's name if its calls are
    claimed several at a time; those share one doorbell instead of having a message each.
    """

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    queue = models.CharField(max_length=255)
    message = models.TextField()
    enqueued_at = models.DateTimeField()
    send_after = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    batch_key = models.CharField(max_length=255, default="")
    worker = models.CharField(max_length=255, default="")
    crash_count = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ("id",)
        constraints = (models.UniqueConstraint(fields=["task_id"], name="call_task_id"),)
        indexes = (
            models.Index(fields=["send_after"], name="call_unsent", condition=Q(sent_at=None, worker="", batch_key="")),
            models.Index(
                fields=["queue", "send_after"], name="call_waiting", condition=Q(sent_at__isnull=False, worker="")
            ),
            models.Index(fields=["worker"], name="call_running", condition=~Q(worker="")),
            models.Index(fields=["batch_key", "id"], name="call_batched", condition=Q(worker="") & ~Q(batch_key="")),
        )

    def __str__(self) -> str:
        return f"{self.task_id} on {self.queue}"
