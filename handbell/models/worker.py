"""The registry of workers."""

from django.db import models


class Worker(models.Model):
    """A worker that is alive: it renews `seen_at` every few seconds. `id` names its main process."""

    id = models.CharField(max_length=255, primary_key=True)
    name = models.CharField(max_length=255)
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name
