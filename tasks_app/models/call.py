"""The ledger of plain tasks: one row per call that has not ended, and the workers that run them."""

from django.db import models
from django.db.models import Q


class Call(models.Model):
    """One call of a plain task, from the moment of the call until its result is stored; that is in its `TaskResult`.

    `message` is JSON: what the broker is given, and may be given again. `sent_at` says when the broker confirmed it.
    While no worker has taken the call (`worker` is empty), the sweeper sends the message once `send_after` has come.
    `deaths` counts the processes that died of it. `together` names the task if its calls are claimed several at a time;
    those have a doorbell in common instead.
    """

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    queue = models.CharField(max_length=255)
    message = models.TextField()
    enqueued_at = models.DateTimeField()
    send_after = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    together = models.CharField(max_length=255, default="")
    worker = models.CharField(max_length=255, default="")
    deaths = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ("id",)
        constraints = (models.UniqueConstraint(fields=["task_id"], name="call_task_id"),)
        indexes = (
            models.Index(fields=["send_after"], name="call_unsent", condition=Q(sent_at=None, worker="", together="")),
            models.Index(
                fields=["queue", "send_after"], name="call_waiting", condition=Q(sent_at__isnull=False, worker="")
            ),
            models.Index(fields=["worker"], name="call_running", condition=~Q(worker="")),
            models.Index(fields=["together", "id"], name="call_together", condition=Q(worker="") & ~Q(together="")),
        )

    def __str__(self) -> str:
        return f"{self.task_id} on {self.queue}"


class CallBell(models.Model):
    """Whether the doorbell of a task whose calls are claimed several at a time has been rung and not yet answered."""

    task = models.CharField(max_length=255, primary_key=True)
    rung = models.BooleanField(default=False)
    rung_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.task} {'rung' if self.rung else 'quiet'}"


class Worker(models.Model):
    """A worker that is alive: it renews `seen_at` every few seconds. `id` names its main process (see owners.py)."""

    id = models.CharField(max_length=255, primary_key=True)
    name = models.CharField(max_length=255)
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name
