"""The sweeper's part for jobs: ring doorbells that were lost, and notice sources that nobody reads any more."""

from typing import ClassVar

from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from handbell import states
from handbell.common.doorbell import MAX_RING_ATTEMPTS, may_have_been_lost, ring_backoff
from handbell.common.leases import SilenceWatch
from handbell.conf import conf
from handbell.models import Chunk, JobRow
from handbell.parallel import doorbell

_QUEUED_CHUNK = Chunk.objects.filter(job=OuterRef("pk"), status=states.QUEUED)
#: Jobs where a doorbell would find something to do: items to claim, a chunk that was given back, or the job to end.
HAS_WORK = (
    Q(claimed__lt=F("total"))
    | Exists(_QUEUED_CHUNK)
    | Q(source_state=JobRow.COMPLETE, total=F("succeeded") + F("failed"))
)


class _Sources:
    watch: ClassVar[SilenceWatch[int | None]] = SilenceWatch()


def sweep_jobs() -> None:
    """Sweep once."""
    _interrupt_silent_sources()
    for job in JobRow.objects.filter(HAS_WORK, status__in=[states.QUEUED, states.RUNNING], paused=False, claimed_by=""):
        if job.no_ring_pending:
            doorbell.ring_after_commit(job.pk)
        else:
            _ring_again(job)


def _interrupt_silent_sources() -> None:
    """The source of a job is interrupted when whoever reads it has been silent for the lease."""
    arriving = JobRow.objects.filter(source_state=JobRow.ARRIVING, source_token__isnull=False)
    _Sources.watch.look(dict(arriving.values_list("source_token", "source_beats")))
    for token in _Sources.watch.silent(conf.LEASE_SECONDS):
        silent = arriving.filter(source_token=token)
        silent.update(source_state=JobRow.INTERRUPTED, source_token=None)


def _ring_again(job: JobRow) -> None:
    """Send the doorbell again if it has not been answered for long: the message may have been lost."""
    late = JobRow.objects.filter(
        pk=job.pk,
        ring_token=job.ring_token,
        ring_attempts=job.ring_attempts,
        rung_at__lt=timezone.now() - ring_backoff(job.ring_attempts, job.queue),
    )
    attempts = min(job.ring_attempts + 1, MAX_RING_ATTEMPTS)
    is_late = late.update(ring_attempts=attempts, rung_at=timezone.now())
    if is_late and may_have_been_lost(attempts, job.queue) and not doorbell.send(job):
        # The broker was away: nobody can have answered, so that is no reason to wait longer.
        JobRow.objects.filter(pk=job.pk, ring_token=job.ring_token).update(ring_attempts=job.ring_attempts)
