"""A page that people visit, with numbers about it that take a while to work out."""

from django.db import models


class Entry(models.Model):
    title = models.CharField(max_length=200)
    body = models.TextField()
    live = models.BooleanField(default=True, help_text="Shown to visitors, and included in launches.")
    visits = models.PositiveIntegerField(default=0, editable=False)
    words = models.PositiveIntegerField(null=True, editable=False)
    reading_seconds = models.PositiveIntegerField(null=True, editable=False)
    measured_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("pk",)
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return self.title
