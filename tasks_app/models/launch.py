"""The ledger of launches: one row per call of an isolated task, from the moment of the call."""

from django.db import models
from django.db.models import Q

from tasks_app import states


class Launch(models.Model):
    """One call of an isolated task. Rows with a lower id start first.

    `arguments` is JSON: [args, kwargs]. `result` is JSON: the return value, or Celery's description of the error;
    `reason` says in a sentence how it ended. `supervisor` is who claimed it, and `owner_until` when that claim expires
    unless it is renewed; `host` and `pid` are where its process runs.
    """

    STATUSES = (
        states.QUEUED,
        states.RUNNING,
        states.SUCCEEDED,
        states.FAILED,
        states.TIMED_OUT,
        states.OUT_OF_MEMORY,
        states.CANCELLED,
        states.LOST,
    )

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    task = models.CharField(max_length=255)
    arguments = models.TextField()
    status = models.CharField(max_length=13, default=states.QUEUED, choices=[(word, word) for word in STATUSES])
    timeout = models.FloatField()
    grace = models.FloatField()
    memory_mb = models.PositiveIntegerField()
    cancel_requested = models.BooleanField(default=False)
    supervisor = models.CharField(max_length=32, default="")
    host = models.CharField(max_length=255, default="")
    pid = models.PositiveIntegerField(null=True)
    owner_until = models.DateTimeField(null=True)
    stdout = models.TextField(default="")
    stderr = models.TextField(default="")
    result = models.TextField(null=True)  # noqa: DJ001  (no result yet is not an empty one)
    traceback = models.TextField(null=True)  # noqa: DJ001
    reason = models.TextField(default="")
    exit_code = models.SmallIntegerField(null=True)
    enqueued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "launches"
        constraints = (models.UniqueConstraint(fields=["task_id"], name="launch_task_id"),)
        indexes = (
            models.Index(fields=["id"], name="launch_queued", condition=Q(status=states.QUEUED)),
            models.Index(fields=["supervisor"], name="launch_running", condition=Q(status=states.RUNNING)),
            models.Index(
                fields=["-id"],
                name="launch_failed",
                condition=Q(status__in=[states.FAILED, states.TIMED_OUT, states.OUT_OF_MEMORY, states.LOST]),
            ),
        )

    def __str__(self) -> str:
        return f"{self.task} {self.task_id} ({self.status})"


class LaunchBell(models.Model):
    """Whether the doorbell for launches has been rung and not yet answered: the one row with id 1.

    `rings` counts how often the sweeper had to ring again.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    rung = models.BooleanField(default=False)
    rung_at = models.DateTimeField(null=True)
    rings = models.PositiveSmallIntegerField(default=0)

    def __str__(self) -> str:
        return "rung" if self.rung else "quiet"
