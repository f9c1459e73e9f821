"""How the system is now: read from the ledger, the broker and the workers, with what is wrong in sentences."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from celery import current_app
from django.db import DatabaseError, transaction
from django.db.models import Count, Min, Q
from django.utils import timezone

from handbell import states
from handbell.common.broker import broker_errors, require_broker
from handbell.embedded.broker import embedded_broker
from handbell.errors import BrokerRefuses, BrokerUnavailable
from handbell.management.addresses import broker_address, database_address, uses_embedded_broker
from handbell.management.live_workers import live_workers
from handbell.management.output import database_problem, read_only_problem
from handbell.management.running import RunningSystem, running_system
from handbell.models import Call, JobRow, Launch, Owner
from handbell.queues import ISOLATED, SERIAL, queue_names
from handbell.serial.lanes import LaneOverview, overview

ANSWER_SECONDS = 1.0
MAX_LISTED_JOBS = 50
SOON = timedelta(seconds=5)  # a call that is to be sent later than this is scheduled, and does not wait


@dataclass
class QueueStatus:
    """A queue: how many calls, operations or launches wait in it, how long the oldest of them has waited, how many are
    to be sent later, and the workers that take it.
    """

    name: str
    waiting: int = 0
    oldest: timedelta | None = None
    scheduled: int = 0
    workers: list[str] = field(default_factory=list)

    def add(self, waiting: int, since: datetime | None) -> None:
        self.waiting += waiting
        if since is not None:
            self.oldest = max(timezone.now() - since, self.oldest or timedelta())


@dataclass
class SystemStatus:
    """Everything that `manage.py handbell status` says."""

    up: RunningSystem | None = None
    database: str = ""
    database_answers: bool = False
    database_takes_writes: bool = False
    broker: str = ""
    broker_answers: bool = False
    broker_refuses: bool = False
    workers_are_asked: bool = True
    workers: dict[str, list[str]] = field(default_factory=dict)
    queues: list[QueueStatus] = field(default_factory=list)
    lanes: list[LaneOverview] = field(default_factory=list)
    jobs: list[JobRow] = field(default_factory=list)
    launch_fences: list[str] = field(default_factory=list)
    launches: dict[str, int] = field(default_factory=lambda: {states.QUEUED: 0, states.RUNNING: 0})
    problems: list[str] = field(default_factory=list)


def system_status() -> SystemStatus:
    """The status now. The ledger is read and the workers are asked. Nothing is started and nothing is raised: what does
    not answer is listed among the problems.
    """
    status = SystemStatus(
        up=running_system(),
        database=database_address(),
        broker=broker_address(),
        workers_are_asked=current_app.conf.worker_enable_remote_control,
    )
    problem = _ask_broker(status)
    status.broker_answers = problem is None
    if problem is None or not status.workers_are_asked:
        status.workers = _workers(status)
    status.queues = [QueueStatus(name) for name in queue_names()]
    try:
        _read_ledger(status)
        status.database_answers = True
    except DatabaseError as error:
        status.problems.append(database_problem(error))
    else:
        _try_to_write(status)
    for queue in status.queues:
        queue.workers = [worker for worker, taken in status.workers.items() if queue.name in taken]
    status.problems += [problem] if problem else _worker_problems(status)
    status.problems += _work_problems(status)
    return status


def _read_ledger(status: SystemStatus) -> None:
    active = Q(status__in=[states.QUEUED, states.RUNNING])
    status.lanes = overview()
    status.jobs = list(JobRow.objects.defer("value_json", "stages", "error").filter(active)[:MAX_LISTED_JOBS])
    launches = Launch.objects.filter(active).order_by()
    status.launches |= dict(launches.values_list("status").annotate(Count("pk")))
    fences = Owner.objects.exclude(launch_fence="").values_list("launch_fence", flat=True)
    status.launch_fences = sorted(set(fences))
    queues = {queue.name: queue for queue in status.queues}
    is_scheduled = Q(sent_at=None, send_after__gt=timezone.now() + SOON)
    counted = Call.objects.filter(claimed_by="").order_by().values("queue")
    for row in counted.annotate(
        waiting=Count("pk", filter=~is_scheduled),
        since=Min("enqueued_at", filter=~is_scheduled),
        scheduled=Count("pk", filter=is_scheduled),
    ):
        if row["queue"] not in queues:  # Celery takes calls to any queue, also to one that the table does not have
            queues[row["queue"]] = QueueStatus(row["queue"])
            status.queues.append(queues[row["queue"]])
        queues[row["queue"]].add(row["waiting"], row["since"])
        queues[row["queue"]].scheduled = row["scheduled"]
    for lane in status.lanes:
        queues[SERIAL].add(lane.depth, timezone.now() - lane.oldest if lane.oldest is not None else None)
    since = launches.filter(status=states.QUEUED).aggregate(since=Min("enqueued_at"))["since"]
    queues[ISOLATED].add(status.launches[states.QUEUED], since)


def _try_to_write(status: SystemStatus) -> None:
    """An UPDATE of no rows changes nothing, and is refused wherever any other would be."""
    try:
        with transaction.atomic():
            Owner.objects.filter(pk="").update(beats=0)
        status.database_takes_writes = True
    except DatabaseError as error:
        status.problems.append(read_only_problem(error))


def _ask_broker(status: SystemStatus) -> str | None:
    """What is wrong with the broker."""
    if uses_embedded_broker() and not embedded_broker().runs():  # to connect would start it
        return "The embedded broker does not run. `manage.py handbell up` starts it, together with everything else."
    try:
        require_broker()
    except BrokerUnavailable as error:
        status.broker_refuses = isinstance(error, BrokerRefuses)
        return str(error)
    return None


def _workers(status: SystemStatus) -> dict[str, list[str]]:
    """The queues of each worker: of those that answer, or where nobody can ask them, of those that live."""
    if status.workers_are_asked:
        return _workers_that_answer()
    try:
        return live_workers()
    except DatabaseError:
        return {}


def _workers_that_answer() -> dict[str, list[str]]:
    """The queues of each worker that answers. Once as many have answered as are registered, no more are waited for."""
    try:
        registered = Owner.objects.filter(kind=Owner.WORKER).count()
    except DatabaseError:
        registered = 0
    try:
        with broker_errors():
            inspect = current_app.control.inspect(timeout=ANSWER_SECONDS, limit=registered or None)
            answers = inspect.active_queues() or {}
    except BrokerUnavailable:
        return {}
    return {name: sorted(queue["name"] for queue in queues) for name, queues in sorted(answers.items())}


def _worker_problems(status: SystemStatus) -> Iterator[str]:
    if not status.workers:
        none = "No worker answers" if status.workers_are_asked else "No worker is registered as alive"
        yield f"{none}. `manage.py handbell up` starts one for each queue."
        return
    for queue in status.queues:
        if not queue.workers:
            waiting = f", and {queue.waiting:,} wait in it" if queue.waiting else ""
            yield f"No worker takes the queue {queue.name}{waiting}. `manage.py celery worker -Q {queue.name}` is one."


def _work_problems(status: SystemStatus) -> Iterator[str]:
    for found in status.lanes:
        lane = found.lane
        if lane.blocked_by is not None:
            yield (
                f"Lane {lane.pk} is blocked by operation {lane.blocked_by}, which failed, and {found.depth:,} wait "
                f"behind it. `manage.py handbell lanes retry {lane.pk}` runs it again, `skip` continues without it."
            )
        elif lane.paused and found.depth:
            yield (
                f"Lane {lane.pk} is paused, and {found.depth:,} operations wait in it. "
                f"`manage.py handbell lanes resume {lane.pk}` resumes it."
            )
    for job in status.jobs:
        if job.paused:
            yield f"Job {job.pk}, {job.name}, is paused. `manage.py handbell jobs resume {job.pk}` resumes it."
        elif job.source_state == JobRow.INTERRUPTED:
            yield f"The source of job {job.pk}, {job.name}, was interrupted after {job.total:,} items."
