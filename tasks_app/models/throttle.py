"""How much work has been started lately, by one user and by all of them together."""

from django.db import models
from django.db.models.functions import Now


class Throttle(models.Model):
    """Each start moves `used_up_until` on by its share of a minute; it is never more than a minute ahead."""

    subject = models.CharField(primary_key=True, max_length=40)
    used_up_until = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.subject}: {self.used_up_until}"
