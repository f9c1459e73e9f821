"""For tests of code that calls tasks: run everything that waits, at once, in the test's own process and transaction.

No broker and no worker is needed. With pytest, the fixture `handbell` is this module, with nothing sent to a broker
meanwhile; elsewhere use `with without_broker():`.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from celery import current_app
from django.db import connection
from django.utils import timezone

from handbell import states
from handbell.celery.app import Celery
from handbell.celery.batch import run_claimed_call
from handbell.common import broker
from handbell.common.claims import new_claim_token
from handbell.common.codec import encode
from handbell.common.heartbeat import no_heartbeats
from handbell.common.process_id import process_id
from handbell.errors import UnknownTask
from handbell.isolated import outcomes
from handbell.isolated.child import run_order
from handbell.isolated.protocol import LaunchOrder, LaunchReport
from handbell.isolated.sql import Claimant, claim_launches, finish_launches
from handbell.models import Call, JobRow, Lane, Operation
from handbell.parallel import finish as job_finish
from handbell.parallel import work as job_work
from handbell.parallel.executor import ChunkOutcome, compose_stages, run_sequentially
from handbell.parallel.sweep import HAS_WORK
from handbell.plain import outbox
from handbell.plain.batching import ClaimedCall
from handbell.plain.message import Message
from handbell.plain.sql import claim_call
from handbell.serial.drain import LaneDrain

__all__ = ["run_all", "run_calls", "run_jobs", "run_launches", "run_operations", "without_broker"]

HOSTNAME = "handbell.testing"


def run_all(*, scheduled: bool = False) -> int:
    """Run everything that waits, in order, and whatever that enqueues; how many pieces of work there were.

    With `scheduled`, what waits for its countdown or eta is run, too; work that always schedules more never ends then.
    Errors are recorded as by a worker: `AsyncResult.get()` raises them.
    """
    total = 0
    while done := run_operations(scheduled=scheduled) + run_calls(scheduled=scheduled) + run_jobs() + run_launches():
        total += done
    return total


def run_operations(*, scheduled: bool = False) -> int:
    """Apply every waiting operation, also those that they enqueue, lane by lane; how many there were."""
    applied = 0
    with no_heartbeats():
        while True:
            if scheduled:
                Operation.objects.filter(status=states.QUEUED).update(not_before=None)
            before = applied
            for lane in Lane.objects.values_list("pk", flat=True):
                drain = LaneDrain(lane)
                drain.run()
                applied += drain.applied
            if applied == before:
                return applied


def run_calls(*, scheduled: bool = False) -> int:
    """Run every waiting call of a plain task, also those that they make; how many there were.

    Calls with `ignore_result` are run as well. Messages for another program, whose tasks are not registered here, are
    left out.

    Raises:
        UnknownTask: a call is in the ledger, and its task is not here any more.
    """
    done = 0
    while due := [message for message in _waiting_messages() if scheduled or _is_due(message)]:
        for message in due:
            done += _run_call(message)
    return done


class _Unrecorded:
    """Messages that would be with the broker by now, and are in no ledger."""

    messages: list[Message] = []


def _waiting_messages() -> list[Message]:
    """All that wait, in the ledger and outside of it. Those outside are taken from the on-commit hooks, which
    never run in a test.
    """
    waiting: Any = connection
    for entry in list(waiting.run_on_commit):
        if isinstance(entry[1], outbox.UnrecordedMessage):
            waiting.run_on_commit.remove(entry)
            _Unrecorded.messages.append(entry[1].message)
    _Unrecorded.messages = [it for it in _Unrecorded.messages if it.headers["task"] in current_app.tasks]
    recorded = Call.objects.filter(claimed_by="").order_by("id").values_list("message", flat=True)
    return [*map(Message.from_json, recorded), *_Unrecorded.messages]


def _is_due(message: Message) -> bool:
    return message.eta is None or message.eta <= timezone.now()


def _run_call(message: Message) -> bool:
    name, task_id, token = message.headers["task"], message.headers["id"], new_claim_token()
    if name not in current_app.tasks:
        raise UnknownTask(f"There is no task called {name}, and a call of it waits. Import the module that defines it.")
    if message in _Unrecorded.messages:
        _Unrecorded.messages.remove(message)
    elif not claim_call(task_id, token, HOSTNAME, encode({"pid": os.getpid(), "hostname": HOSTNAME})):
        return False  # it was revoked
    run_claimed_call(ClaimedCall(0, token, message), HOSTNAME)
    return True


def run_jobs() -> int:
    """Run every chunk that waits, also of jobs that are started meanwhile; how many there were.

    Items run one after the other in this thread, whatever the job says of threads and of a time limit.
    """
    done = 0
    waiting = JobRow.objects.filter(HAS_WORK, status__in=[states.QUEUED, states.RUNNING], paused=False)
    with no_heartbeats(), _in_this_thread():
        while (job := waiting.order_by("id").first()) is not None:
            job_work.work(job.pk, job.ring_token)
            done += 1
    return done


@contextmanager
def _in_this_thread() -> Iterator[None]:
    """Other threads and processes have connections of their own, which do not see what a test has not committed."""

    def run(call: Callable[[Any], Any], items: Sequence[Any], stop: Callable[[], bool], *limits: Any) -> ChunkOutcome:
        return run_sequentially(call, items, stop)

    def executor(
        stages: Sequence[Any], items: Sequence[Any], stop: Callable[[], bool], *limits: Any
    ) -> SimpleNamespace:
        return SimpleNamespace(run=lambda: run_sequentially(compose_stages(stages), items, stop))

    with (
        mock.patch.multiple(job_work, run_in_threads=run, SubprocessExecutor=executor),
        mock.patch.object(job_finish, "SubprocessExecutor", executor),
    ):
        yield


def run_launches() -> int:
    """Run every waiting launch, in this process and without its limits; how many there were."""
    done = 0
    claimant = Claimant(process_id(), HOSTNAME, socket.gethostname())
    while orders := claim_launches(claimant, token := new_claim_token(), 1):
        finish_launches([(_report(orders[0]), token)])
        done += 1
    return done


def _report(order: LaunchOrder) -> LaunchReport:
    started_at, started = time.time(), time.monotonic()
    said, code = run_order(order)
    seconds = time.monotonic() - started
    status, reason, result, trace, exit_code = outcomes.ended_by_itself(code << 8, encode(said).encode(), seconds)
    return LaunchReport(
        order.id, status, reason, result, trace, "", "", exit_code, os.getpid(), started_at, started_at + seconds
    )


@contextmanager
def without_broker() -> Iterator[None]:
    """Within the block nothing is sent: what is enqueued waits for `run_all`."""
    with (
        mock.patch.object(broker, "publish", return_value=False),
        mock.patch.object(outbox, "publish_unrecorded", lambda app, message: _Unrecorded.messages.append(message)),
        # Celery looks at the kind of broker when a call has a countdown; the embedded one would be started for that.
        mock.patch.object(Celery, "_attach_embedded_broker"),
    ):
        try:
            yield
        finally:
            _Unrecorded.messages.clear()
