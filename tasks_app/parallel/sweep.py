"""The sweeper's part for jobs: ring where somebody should have rung, and take over from owners that are gone."""

from datetime import timedelta

from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from tasks_app import states
from tasks_app.models import Chunk, Job
from tasks_app.models.job_handle import send
from tasks_app.owners import is_dead
from tasks_app.parallel.claim import lease, lost

LONGEST_WAIT_SECONDS = 64
QUEUED_CHUNK = Chunk.objects.filter(job=OuterRef("pk"), status=states.QUEUED)
#: A doorbell finds something to do: items to claim, a chunk to do again, or a job to end.
WAITING = (
    Q(claimed__lt=F("total")) | Exists(QUEUED_CHUNK) | Q(source_state=Job.COMPLETE, total=F("succeeded") + F("failed"))
)


def sweep() -> None:
    """Look at every job that has not finished, once."""
    now = timezone.now()
    active = Job.objects.filter(status__in=[states.QUEUED, states.RUNNING])
    for job in active.filter(source_state=Job.ARRIVING, source_seen_at__lt=now - lease()):
        Job.objects.filter(pk=job.pk, source_seen_at=job.source_seen_at).update(source_state=Job.INTERRUPTED)
    running = Chunk.objects.filter(status=states.RUNNING).defer("results", "partial")
    for chunk in running.select_related("job").iterator(chunk_size=500):
        if is_dead(chunk.owner) or (chunk.owner_until is not None and chunk.owner_until < now):
            lost(chunk)
    for job in active.filter(paused=False).filter(WAITING):
        if job.idle:
            job.ring()
        else:
            _ring_again(job)


def _ring_again(job: Job) -> None:
    """The message may have been lost. Wait twice as long each time: it may as well be waiting behind others."""
    patience = timedelta(seconds=min(2 ** (job.rings + 1), LONGEST_WAIT_SECONDS))
    late = Job.objects.filter(pk=job.pk, bell=job.bell, rings=job.rings, rung_at__lt=timezone.now() - patience)
    if late.update(rings=F("rings") + 1, rung_at=timezone.now()):
        send(job, job.bell)
