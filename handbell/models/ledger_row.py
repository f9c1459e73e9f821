"""What the rows of operations and launches have in common."""

from typing import ClassVar

from django.db import models

from handbell import states


class LedgerRow(models.Model):
    """One call of a serial or isolated task, from the moment of the call. Rows with a lower id run first.

    `arguments` is JSON: [args, kwargs]. `result` is JSON: the return value, or Celery's description of the error.
    `claimed_by` is who runs it, and whoever writes without its `claim_token`, which is new at each claim, is refused.
    """

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    task = models.CharField(max_length=255)
    arguments = models.TextField()
    status = models.CharField(max_length=13, default=states.QUEUED)
    result = models.TextField(null=True)  # noqa: DJ001  (no result yet is not an empty one)
    traceback = models.TextField(null=True)  # noqa: DJ001
    claimed_by = models.CharField(max_length=255, default="", db_default="")
    claim_token = models.BigIntegerField(null=True)
    enqueued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True
        ordering = ("-id",)
        constraints: ClassVar[tuple[models.BaseConstraint, ...]] = (
            models.UniqueConstraint(fields=["task_id"], name="%(class)s_task_id"),
        )

    def __str__(self) -> str:
        return f"{self.task} {self.task_id} ({self.status})"
