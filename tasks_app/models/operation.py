"""The ledger of serial work: one row per call, from the moment of the call."""

from django.db import models
from django.db.models import Q

from tasks_app import states


class Operation(models.Model):
    """One call of a serial task. Rows with a lower id go first within their lane.

    `arguments` is JSON: [args, kwargs]. `result` is JSON: the return value, or Celery's description of the error.
    `owner_until` is when the claim of a running external operation expires.
    """

    STATUSES = (states.QUEUED, states.RUNNING, states.SUCCEEDED, states.FAILED, states.CANCELLED, states.LOST)

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    lane = models.PositiveSmallIntegerField()
    key = models.CharField(max_length=255)
    task = models.CharField(max_length=255)
    arguments = models.TextField()
    status = models.CharField(max_length=10, default=states.QUEUED, choices=[(word, word) for word in STATUSES])
    result = models.TextField(null=True)  # noqa: DJ001  (no result yet is not an empty one)
    traceback = models.TextField(null=True)  # noqa: DJ001
    attempts = models.PositiveSmallIntegerField(default=0)
    idempotency_key = models.CharField(max_length=255, null=True)  # noqa: DJ001  (unique where there is one)
    not_before = models.DateTimeField(null=True)
    owner_until = models.DateTimeField(null=True)
    enqueued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["task_id"], name="operation_task_id"),
            models.UniqueConstraint(
                fields=["idempotency_key"], name="operation_idempotency", condition=Q(idempotency_key__isnull=False)
            ),
        )
        indexes = (
            models.Index(
                fields=["lane", "id"],
                name="operation_pending",
                condition=Q(status__in=[states.QUEUED, states.RUNNING], not_before__isnull=True),
            ),
            models.Index(
                fields=["not_before"],
                name="operation_scheduled",
                condition=Q(status=states.QUEUED, not_before__isnull=False),
            ),
            models.Index(fields=["lane"], name="operation_running", condition=Q(status=states.RUNNING)),
            models.Index(fields=["-id"], name="operation_failed", condition=Q(status__in=[states.FAILED, states.LOST])),
        )

    def __str__(self) -> str:
        return f"{self.task} {self.key} ({self.status})"
