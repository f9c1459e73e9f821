"""A number with a name, twice: the shared state of the examples."""

from django.db import models

from handbell import SerialModel


class Counter(SerialModel):
    """Changed by its lane only: other code cannot write it by accident."""

    name = models.CharField(primary_key=True, max_length=100)
    value = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class PlainCounter(models.Model):
    """Changed by plain Celery tasks on the queue `serial`, whose worker does one at a time."""

    name = models.CharField(primary_key=True, max_length=100)
    value = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"
