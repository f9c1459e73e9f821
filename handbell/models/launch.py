"""The ledger of launches: one row per call of an isolated task."""

from django.db import models
from django.db.models import Q

from handbell import states
from handbell.models.ledger_row import LedgerRow


class Launch(LedgerRow):
    """One call of an isolated task.

    `timeout` and `grace` are in seconds. `fork_server` is the name of the one that its owner uses; `host` and `pid` are
    where its process runs. `stdout` and `stderr` are the beginning and the end of what it printed, and `reason` says in
    a sentence how it ended.
    """

    STATUSES = (
        states.QUEUED,
        states.RUNNING,
        states.SUCCEEDED,
        states.FAILED,
        states.TIMED_OUT,
        states.OUT_OF_MEMORY,
        states.CANCELLED,
        states.LOST,
    )
    #: Columns that lists leave out.
    LARGE_COLUMNS = ("arguments", "result", "traceback", "stdout", "stderr")

    timeout = models.FloatField()
    grace = models.FloatField()
    memory_mb = models.PositiveIntegerField()
    cancel_requested = models.BooleanField(default=False)
    fork_server = models.CharField(max_length=32, default="")
    host = models.CharField(max_length=255, default="")
    pid = models.PositiveIntegerField(null=True)
    stdout = models.TextField(default="")
    stderr = models.TextField(default="")
    reason = models.TextField(default="")
    exit_code = models.SmallIntegerField(null=True)

    class Meta(LedgerRow.Meta):
        verbose_name_plural = "launches"
        indexes = (
            models.Index(fields=["id"], name="launch_queued", condition=Q(status=states.QUEUED)),
            models.Index(fields=["claimed_by"], name="launch_claimed", condition=Q(status=states.RUNNING)),
            models.Index(
                fields=["-id"],
                name="launch_failed",
                condition=Q(status__in=[states.FAILED, states.TIMED_OUT, states.OUT_OF_MEMORY, states.LOST]),
            ),
        )
