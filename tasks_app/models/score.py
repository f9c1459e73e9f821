"""What the list-of-ids example computes for each id."""

from django.db import models


class Score(models.Model):
    item = models.BigIntegerField(primary_key=True)
    value = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.item}: {self.value}"
