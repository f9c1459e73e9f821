"""The doorbell of a job, which is numbered: a message with another number than the current one claims no chunk."""

from django.db import transaction
from django.utils import timezone

from handbell.common import broker
from handbell.models import JobRow

WORK = "handbell.work"


def ring_after_commit(job_id: int) -> None:
    """Send the job's doorbell after the commit, unless one is on its way."""
    with transaction.atomic():
        rows = JobRow.objects.filter(pk=job_id)
        if rows.filter(no_ring_pending=True).update(no_ring_pending=False, rung_at=timezone.now(), ring_attempts=0):
            job = rows.only("ring_token", "queue", "priority").get()
            transaction.on_commit(lambda: send(job), robust=True)


def send(job: JobRow) -> bool:
    """Send the message with the current number; whether that could be done."""
    return broker.send_message(WORK, (job.pk, job.ring_token), job.queue, f"The doorbell of job {job.pk}", job.priority)
