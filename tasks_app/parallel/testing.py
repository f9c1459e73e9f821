"""For tests of code that starts jobs: do all the work here and now, in the test's own process and transaction."""

from tasks_app import states
from tasks_app.models import Job
from tasks_app.parallel.sweep import WAITING
from tasks_app.parallel.work import work


def run_jobs() -> int:
    """Do every chunk that waits, also of jobs that are started meanwhile; how many there were. No broker and no worker
    is needed.
    """
    done = 0
    waiting = Job.objects.filter(WAITING, status__in=[states.QUEUED, states.RUNNING], paused=False)
    while (job := waiting.order_by("id").first()) is not None:
        work(job.pk, job.bell)
        done += 1
    return done
