"""Lanes: each is one order of operations, and every key belongs to one of them."""

import zlib

from django.db import models


def lane_of(key: str, count: int) -> int:
    """The lane, from 0 to `count` - 1, that operations with this key wait in: CRC-32, the same everywhere and
    always.
    """
    return zlib.crc32(key.encode()) % count


class LaneCount(models.Model):
    """How many lanes there are: the one row with id 1. Every enqueue checks it, so that no key is ever in two lanes."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    count = models.PositiveSmallIntegerField()

    def __str__(self) -> str:
        return f"{self.count} lanes"


class Lane(models.Model):
    """A lane. Whoever drains it holds this row's lock, from reading its operations to committing their effects.

    `blocked_by` is the failed operation that holds the lane until somebody skips or retries it.
    """

    id = models.PositiveSmallIntegerField(primary_key=True)
    paused = models.BooleanField(default=False)
    blocked_by = models.BigIntegerField(null=True)
    drained_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"lane {self.id}"
