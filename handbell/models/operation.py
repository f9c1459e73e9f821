"""The ledger of serial work: one row per call."""

from django.db import models
from django.db.models import Q

from handbell import states
from handbell.models.ledger_row import LedgerRow


class Operation(LedgerRow):
    """One call of a serial task. Within its lane, the row with the lowest id runs first."""

    STATUSES = (states.QUEUED, states.RUNNING, states.SUCCEEDED, states.FAILED, states.CANCELLED, states.LOST)

    lane = models.PositiveSmallIntegerField()
    key = models.CharField(max_length=255)
    attempts = models.PositiveSmallIntegerField(default=0)
    idempotency_key = models.CharField(max_length=255, null=True)  # noqa: DJ001  (unique where there is one)
    not_before = models.DateTimeField(null=True)

    class Meta(LedgerRow.Meta):
        constraints = (
            *LedgerRow.Meta.constraints,
            models.UniqueConstraint(
                fields=["idempotency_key"], name="operation_idempotency", condition=Q(idempotency_key__isnull=False)
            ),
        )
        indexes = (
            models.Index(
                fields=["lane", "id"],
                name="operation_pending",
                condition=Q(status__in=[states.QUEUED, states.RUNNING], not_before__isnull=True),
            ),
            models.Index(
                fields=["not_before"],
                name="operation_scheduled",
                condition=Q(status=states.QUEUED, not_before__isnull=False),
            ),
            models.Index(fields=["lane"], name="operation_running", condition=Q(status=states.RUNNING)),
            models.Index(fields=["claimed_by"], name="operation_claimed", condition=Q(status=states.RUNNING)),
            models.Index(fields=["-id"], name="operation_failed", condition=Q(status__in=[states.FAILED, states.LOST])),
        )
