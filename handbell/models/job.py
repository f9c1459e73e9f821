"""The ledger of parallel work: jobs, the blocks that their items arrive in, the chunks that are run, the failures."""

from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from handbell import states
from handbell.queues import DEFAULT_PRIORITY


class JobRow(models.Model):
    """Tasks applied to every item of a source. Callers use the proxy `Job` of handbell.parallel.job.

    Source: items have indexes from 0. `total` counts those that have arrived; all before `claimed` are in chunks.
    `source` is {"range": [start, stop, step]}, or empty if the items are in blocks. Whoever reads the source has
    `source_token`, and changes `source_beats` to show that it is still there.

    Work: `stages` is [[task, args, kwargs], …], `reducer` and `saver` are import paths, and `callbacks` are signatures.
    `last_size` is the number of items in the newest chunk. `runs` counts how often the job has finished, which is more
    than once after a retry.

    End: `claimed_by` is the process that folds the results of the chunks, under `claim_token`.

    Doorbell: `ring_token` is the number of the message that may claim a chunk; messages with another number do nothing.
    `no_ring_pending` says that no message is on its way. `ring_attempts` counts how often it was sent again.
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
    source_token = models.BigIntegerField(null=True)
    source_beats = models.BigIntegerField(default=0)
    claimed_by = models.CharField(max_length=255, default="")
    claim_token = models.BigIntegerField(null=True)
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

    ring_token = models.BigIntegerField(default=0)
    no_ring_pending = models.BooleanField(default=True)
    rung_at = models.DateTimeField(null=True)
    ring_attempts = models.PositiveSmallIntegerField(default=0)

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
            models.Index(fields=["source_token"], name="job_arriving", condition=Q(source_state="arriving")),
            models.Index(fields=["claimed_by"], name="job_ending", condition=~Q(claimed_by="")),
            models.Index(fields=["name"], name="job_name"),
            models.Index(fields=["finished_at"], name="job_finished"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.status})"

    @property
    def finished(self) -> bool:
        return self.status in states.FINISHED

    @property
    def state(self) -> str:
        """The status, or "paused"."""
        return "paused" if self.paused and not self.finished else self.status

    @property
    def done(self) -> int:
        """How many items have succeeded or failed."""
        return self.succeeded + self.failed

    @property
    def percent(self) -> int:
        """How much of what has arrived is done."""
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
        """At the rate so far; None if that is not known, or the job is paused or has finished."""
        if self.finished or self.paused or not self.rate or self.source_state != self.COMPLETE:
            return None
        return timedelta(seconds=(self.total - self.done) / self.rate)

    @property
    def range(self) -> "range | None":
        """The items, if the source is a range."""
        return range(*self.source["range"]) if self.source else None


class Block(models.Model):
    """Items of a job's source as they arrived, as a JSON array. The first of them has the index `first`."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(JobRow, on_delete=models.CASCADE, related_name="blocks")
    first = models.BigIntegerField()
    count = models.PositiveIntegerField()
    items = models.TextField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["job", "first"], name="block_first"),)

    def __str__(self) -> str:
        return f"items {self.first} … {self.first + self.count - 1} of job {self.job_id}"


class Chunk(models.Model):
    """A range of items that are run together, by one process at a time; later it holds their results.

    `results` is a JSON array with null for each failed item. `partials` is one of what `reduce` made of them: as a rule
    one value. `failed_offsets`
    are the offsets of the failed items in the chunk, `retry_offsets` the offsets to run on a retry (null: all items).

    While it runs, `claimed_by` is the process that runs it, and whoever writes without its `claim_token`, which is new
    at each claim, is refused. `attempts` counts the claims, and `crash_count` the processes that died.
    `run_in_subprocess` says that an item may kill the process that runs it.
    """

    STATUSES = (states.QUEUED, states.RUNNING, states.SUCCEEDED)

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(JobRow, on_delete=models.CASCADE, related_name="chunks")
    first = models.BigIntegerField()
    count = models.PositiveIntegerField()
    status = models.CharField(max_length=10, default=states.QUEUED, choices=[(word, word) for word in STATUSES])
    attempts = models.PositiveIntegerField(default=0)
    crash_count = models.PositiveIntegerField(default=0)
    run_in_subprocess = models.BooleanField(default=False)
    claimed_by = models.CharField(max_length=255, default="")
    claim_token = models.BigIntegerField(null=True)
    results = models.TextField(null=True)  # noqa: DJ001
    partials = models.TextField(null=True)  # noqa: DJ001
    failed_offsets = models.JSONField(default=list)
    retry_offsets = models.JSONField(null=True)
    seconds = models.FloatField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["job", "first"], name="chunk_first"),)
        indexes = (
            models.Index(fields=["job", "first"], name="chunk_queued", condition=Q(status=states.QUEUED)),
            models.Index(fields=["job"], name="chunk_running", condition=Q(status=states.RUNNING)),
            models.Index(fields=["claimed_by"], name="chunk_claimed", condition=Q(status=states.RUNNING)),
        )

    def __str__(self) -> str:
        return f"items {self.first} … {self.first + self.count - 1} of job {self.job_id} ({self.status})"


class ItemFailure(models.Model):
    """An item that failed, as JSON, and its error. A job keeps the first thousand; `Job.failed` is the exact number."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(JobRow, on_delete=models.CASCADE, related_name="failure_rows")
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
