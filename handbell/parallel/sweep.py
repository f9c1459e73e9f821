"""The sweeper's part for jobs: ring doorbells that were lost, and give back the chunks of owners that are gone."""

from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from handbell import states
from handbell.common.doorbell import MAX_RING_ATTEMPTS, ring_backoff
from handbell.common.leases import lease
from handbell.common.process_id import is_dead
from handbell.models import Chunk, JobRow
from handbell.parallel import doorbell
from handbell.parallel.claim import requeue_crashed_chunk

_QUEUED_CHUNK = Chunk.objects.filter(job=OuterRef("pk"), status=states.QUEUED)
#: Jobs where a doorbell would find something to do: items to claim, a chunk that was given back, or the job to end.
HAS_WORK = (
    Q(claimed__lt=F("total"))
    | Exists(_QUEUED_CHUNK)
    | Q(source_state=JobRow.COMPLETE, total=F("succeeded") + F("failed"))
)


def sweep_jobs() -> None:
    """Sweep once: look at every unfinished job."""
    now = timezone.now()
    active = JobRow.objects.filter(status__in=[states.QUEUED, states.RUNNING])
    for job in active.filter(source_state=JobRow.ARRIVING, source_seen_at__lt=now - lease()):
        still_silent = JobRow.objects.filter(pk=job.pk, source_seen_at=job.source_seen_at)
        still_silent.update(source_state=JobRow.INTERRUPTED)
    running = Chunk.objects.filter(status=states.RUNNING).defer("results", "partial")
    for chunk in running.select_related("job").iterator(chunk_size=500):
        if is_dead(chunk.owner) or (chunk.lease_expires_at is not None and chunk.lease_expires_at < now):
            requeue_crashed_chunk(chunk)
    for job in active.filter(paused=False).filter(HAS_WORK):
        if job.no_ring_pending:
            doorbell.ring_after_commit(job.pk)
        else:
            _ring_again(job)


def _ring_again(job: JobRow) -> None:
    """Send the doorbell again if it has not been answered for long: the message may have been lost."""
    late = JobRow.objects.filter(
        pk=job.pk,
        ring_token=job.ring_token,
        ring_attempts=job.ring_attempts,
        rung_at__lt=timezone.now() - ring_backoff(job.ring_attempts),
    )
    if late.update(ring_attempts=min(job.ring_attempts + 1, MAX_RING_ATTEMPTS), rung_at=timezone.now()):
        doorbell.send(job)
