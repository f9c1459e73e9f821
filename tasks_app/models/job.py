"""The ledger of parallel work: a job, the blocks its items arrive in, the chunks they are claimed in, the failures."""

from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from tasks_app import states
from tasks_app.models.job_handle import JobHandle
from tasks_app.queues import DEFAULT_PRIORITY


class Job(JobHandle):
    """A pipeline applied to every item of a source.

    Items have indexes from 0. `total` counts those that have arrived; all before `claimed` are in chunks. `source` is
    {"range": [start, stop, step]}, or empty if the items are in blocks. The pipeline is in `stages` ([[task, args,
    kwargs], …]), `reducer` and `saver` (references, see `tasks_app.parallel.references`) and `callbacks` (signatures).
    `bell` numbers the doorbells: only the message with the current number claims. `idle` says that none is on its way.
    """

    STATUSES = (states.QUEUED, states.RUNNING, states.SUCCEEDED, states.FAILED, states.CANCELLED)
    COMPLETE, ARRIVING, INTERRUPTED = "complete", "arriving", "interrupted"

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=200)
    queue = models.CharField(max_length=50)
    priority = models.PositiveSmallIntegerField(default=DEFAULT_PRIORITY)
    parent = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="children")
    status = models.CharField(max_length=10, default=states.QUEUED, choices=[(word, word) for word in STATUSES])
    paused = models.BooleanField(default=False)

    stages = models.JSONField(default=list)
    reducer = models.CharField(max_length=255, default="")
    saver = models.CharField(max_length=255, default="")
    callbacks = models.JSONField(default=dict)

    source = models.JSONField(default=dict)
    source_state = models.CharField(
        max_length=11, default=COMPLETE, choices=[(word, word) for word in (COMPLETE, ARRIVING, INTERRUPTED)]
    )
    source_seen_at = models.DateTimeField(null=True)
    total = models.BigIntegerField(default=0)
    claimed = models.BigIntegerField(default=0)
    succeeded = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)

    chunk_size = models.PositiveIntegerField(null=True)
    chunk_seconds = models.FloatField()
    threads = models.PositiveIntegerField(default=1)
    item_timeout = models.FloatField(null=True)
    max_failures = models.PositiveIntegerField(null=True)
    keep_results = models.BooleanField(default=True)
    seconds_per_item = models.FloatField(null=True)
    last_size = models.PositiveIntegerField(default=0)

    bell = models.BigIntegerField(default=0)
    idle = models.BooleanField(default=True)
    rung_at = models.DateTimeField(null=True)
    rings = models.PositiveSmallIntegerField(default=0)

    runs = models.PositiveIntegerField(default=0)
    value_json = models.TextField(null=True)  # noqa: DJ001  (no value is not an empty one)
    error = models.TextField(default="")
    enqueued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=["id"], name="job_active", condition=Q(status__in=[states.QUEUED, states.RUNNING], paused=False)
            ),
            models.Index(fields=["name"], name="job_name"),
            models.Index(fields=["finished_at"], name="job_finished"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.status})"

    @property
    def finished(self) -> bool:
        return self.status in states.FINISHED

    @property
    def done(self) -> int:
        """How many items have succeeded or failed."""
        return self.succeeded + self.failed

    @property
    def percent(self) -> int:
        return 100 * self.done // self.total if self.total else 100 * self.finished

    @property
    def rate(self) -> float | None:
        """Items per second so far, or None before the first."""
        if self.started_at is None or not self.done:
            return None
        seconds = ((self.finished_at or timezone.now()) - self.started_at).total_seconds()
        return self.done / seconds if seconds > 0 else None

    @property
    def time_left(self) -> timedelta | None:
        """At the rate so far; None if it is not known, or nothing goes on."""
        if self.finished or self.paused or not self.rate or self.source_state != self.COMPLETE:
            return None
        return timedelta(seconds=(self.total - self.done) / self.rate)

    @property
    def range(self) -> "range | None":
        return range(*self.source["range"]) if self.source else None


class Block(models.Model):
    """Items of a job's source as they arrived: a JSON array, the first of them with index `first`."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="blocks")
    first = models.BigIntegerField()
    count = models.PositiveIntegerField()
    items = models.TextField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["job", "first"], name="block_first"),)

    def __str__(self) -> str:
        return f"items {self.first} … {self.first + self.count - 1} of job {self.job_id}"


class Chunk(models.Model):
    """A range of items that one process works on at a time; one that has succeeded holds their results.

    `results` is a JSON array with null for each failed item. `wrong` are the offsets of those, `only` the offsets to
    run on a retry (all, if it is null). `attempts` is the number of claims: whoever writes under an older one is
    refused. `owner_until` is when the claim expires. `deaths` counts the owners that were lost; `careful`: run in a
    process of its own.
    """

    STATUSES = (states.QUEUED, states.RUNNING, states.SUCCEEDED)

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="chunks")
    first = models.BigIntegerField()
    count = models.PositiveIntegerField()
    status = models.CharField(max_length=10, default=states.QUEUED, choices=[(word, word) for word in STATUSES])
    attempts = models.PositiveIntegerField(default=0)
    deaths = models.PositiveIntegerField(default=0)
    careful = models.BooleanField(default=False)
    owner = models.CharField(max_length=200, default="")
    owner_until = models.DateTimeField(null=True)
    results = models.TextField(null=True)  # noqa: DJ001
    partial = models.TextField(null=True)  # noqa: DJ001
    wrong = models.JSONField(default=list)
    only = models.JSONField(null=True)
    seconds = models.FloatField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["job", "first"], name="chunk_first"),)
        indexes = (
            models.Index(fields=["job", "first"], name="chunk_queued", condition=Q(status=states.QUEUED)),
            models.Index(fields=["job"], name="chunk_running", condition=Q(status=states.RUNNING)),
        )

    def __str__(self) -> str:
        return f"items {self.first} … {self.first + self.count - 1} of job {self.job_id} ({self.status})"


class Failure(models.Model):
    """An item that failed. A job keeps the first few; `Job.failed` is the exact number."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="failure_rows")
    index = models.BigIntegerField()
    item = models.TextField()
    error = models.TextField()
    traceback = models.TextField()

    class Meta:
        ordering = ("index",)
        constraints = (models.UniqueConstraint(fields=["job", "index"], name="failure_index"),)

    def __str__(self) -> str:
        return f"item {self.index}: {self.error}"

    def as_dict(self) -> dict[str, Any]:
        return {"index": self.index, "item": self.item, "error": self.error, "traceback": self.traceback}
