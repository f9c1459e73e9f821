"""One start of a workload: what was asked for, and the ids of the tasks and jobs it became."""

import uuid

from django.conf import settings
from django.db import models


class Run(models.Model):
    """`task_ids` and `job_ids` are what tells how far the run is; `inputs` is what the form held. `outcome` is kept
    once the run has finished: its counts, and the verdict on it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workload = models.CharField(max_length=40)
    inputs = models.JSONField(default=dict)
    task_ids = models.JSONField(default=list)
    job_ids = models.JSONField(default=list)
    outcome = models.JSONField(null=True)
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    started_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-started_at",)
        indexes = (models.Index(fields=["workload", "-started_at"]),)

    def __str__(self) -> str:
        return f"{self.workload} {self.started_at:%Y-%m-%d %H:%M:%S}"
