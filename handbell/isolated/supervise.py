"""The supervisor: claims launches, has them started, and records their outcomes. It knows rows, and no processes.

There is one at a time in each worker, and it is a Celery task: it begins at a doorbell, and ends when nothing waits and
nothing runs. Its fork server stays for the next one.
"""

import fcntl
import hashlib
import logging
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from celery import shared_task
from django.db import Error, connection

from handbell import states
from handbell.common import stop_pipe
from handbell.common.claims import WORKER_ID, new_claim_token
from handbell.common.codec import encode_error
from handbell.common.doorbell import NO_LIMIT_SECONDS
from handbell.common.leases import beat_seconds
from handbell.common.outages import is_outage, retry_through_outage
from handbell.common.process_id import process_id
from handbell.conf import conf
from handbell.errors import ProcessDied
from handbell.isolated import fork_client, sql
from handbell.isolated.doorbell import SUPERVISE, launches_doorbell
from handbell.isolated.lost import record_lost_launches
from handbell.isolated.outcomes import without_content
from handbell.isolated.protocol import LaunchOrder, LaunchReport
from handbell.models import Owner

CLAIM_INTERVAL_SECONDS = 0.05  # for launches that wait, while others run
WRITE_INTERVAL_SECONDS = 0.02  # what ends within this long is written together
WATCH_INTERVAL_SECONDS = 0.25  # for launches that somebody cancels
OUTAGE_PAUSE_SECONDS = 0.5  # before a database that does not answer is asked again
logger = logging.getLogger(__name__)


@shared_task(name=SUPERVISE, ignore_result=True, time_limit=NO_LIMIT_SECONDS, soft_time_limit=NO_LIMIT_SECONDS)
def supervise() -> None:
    """Run what waits, until nothing waits and nothing runs."""
    launches_doorbell.answer()
    while True:
        with _supervisor_lock() as ours:
            if not ours:
                return  # the one that is at work claims what waits
            with _registered() as owner:
                stopped = LaunchSupervisor(fork_client.fork_client(), owner).run()
        # A doorbell may have found this one at work, and ended, after its last look at what waits.
        if stopped or not sql.has_queued_launches():
            return


@contextmanager
def _registered() -> Iterator[Owner]:
    """Be in the registry of owners while the block runs. If it ends with an error, so does the fork server: what it ran
    is lost, and nobody starts it a second time.
    """
    owner = Owner(pk=process_id(), kind=Owner.SUPERVISOR, name=socket.gethostname())
    retry_through_outage(owner.beat, seconds=float("inf"))
    try:
        yield owner
    except BaseException:
        fork_client.close_fork_client()
        raise
    finally:
        retry_through_outage(lambda: _leave(owner), seconds=float("inf"))


def _leave(owner: Owner) -> None:
    record_lost_launches(owner.pk)  # there are none, unless something went wrong
    Owner.objects.filter(pk=owner.pk).delete()


class LaunchSupervisor:
    """One run of a supervisor, with a fork server that is ready, and its row in the registry of owners."""

    def __init__(self, server: fork_client.ForkClient, owner: Owner) -> None:
        self.server, self.owner = server, owner
        self.running: dict[int, int] = {}  # the token of each launch's claim
        self.unanswered_claim: int | None = None  # the token of a claim of which nobody knows whether it was made
        self.reports: list[tuple[LaunchReport, int]] = []  # to be written, each with the token of its claim
        self.started: dict[int, tuple[int, float]] = {}  # by launch: the pid and the start time, to be written
        self.stop_due: float | None = None  # when to end what still runs, once the worker was told to stop
        self._next_claim = self._next_write = self._next_watch = self._next_beat = 0.0
        self._has_called_others = False

    def run(self) -> bool:
        """Work until nothing waits and nothing runs, or until the worker is told to stop; whether it was."""
        while True:
            try:
                self._handle_due()
                if not self.running and not self.reports and (self.stop_due is not None or not self._claim()):
                    return self.stop_due is not None
            except Error as error:  # whatever it is: what runs here must not be forgotten
                logger.warning("The ledger could not be reached: %s. Launches go on.", str(error).strip())
                connection.close()
                self._receive(OUTAGE_PAUSE_SECONDS)
            self._receive(self._seconds_until_due())
            if not self.server.is_alive:
                self._replace_dead_server()

    def _handle_due(self) -> None:
        now = time.monotonic()
        if self.stop_due is None and stop_pipe.is_stop_announced():
            self.stop_due = now + conf.STOP_SECONDS
        elif self.stop_due is not None and now >= self.stop_due and self.running:
            self.server.channel.send("stopped", list(self.running))
            self.stop_due = float("inf")
        if self.reports and (now >= self._next_write or not self.running):
            self._write()
        if now >= self._next_claim:
            self._claim()
        if self.running and now >= self._next_watch:
            self._watch()

    def _seconds_until_due(self) -> float:
        due = self._next_watch
        if self.stop_due is None and len(self.running) < conf.LAUNCH_CONCURRENCY:
            due = min(due, self._next_claim)
        if self.reports:
            due = min(due, self._next_write)
        if self.stop_due is not None:
            due = min(due, self.stop_due)
        return max(0.0, due - time.monotonic())

    def _receive(self, seconds: float) -> None:
        """Wait for what the fork server says, for up to `seconds`."""
        self.server.wait(seconds, *(stop_pipe.stop_descriptors() if self.stop_due is None else ()))
        for kind, content in self.server.messages():
            if kind == "ended":
                report = LaunchReport(*content)
                token = self.running.pop(report.id)
                self.started.pop(report.id, None)
                self.reports.append((report, token))
            elif kind == "started":
                self.started.update({launch: (pid, started_at) for launch, pid, started_at in content})

    def _claim(self) -> bool:
        """Claim as many as there is room for, and have them started; whether there were any."""
        self._next_claim = time.monotonic() + CLAIM_INTERVAL_SECONDS
        if self.unanswered_claim is not None:
            return self._start(self.unanswered_claim, sql.claimed_launches(self.unanswered_claim))
        room = conf.LAUNCH_CONCURRENCY - len(self.running)
        if self.stop_due is not None or room <= 0 or not sql.has_queued_launches():
            if room > 0:
                self._has_called_others = False
            return False
        self.unanswered_claim = new_claim_token()
        claimant = sql.Claimant(self.owner.pk, self.server.name, self.owner.name)
        orders = sql.claim_launches(claimant, self.unanswered_claim, room)
        self._start(self.unanswered_claim, orders)
        if not self._has_called_others and len(orders) == room and sql.has_queued_launches():
            self._has_called_others = True
            launches_doorbell.ring()  # another worker may have room
        return bool(orders)

    def _start(self, token: int, orders: Sequence[LaunchOrder]) -> bool:
        """Have launches started that are claimed for certain. From here on the fork server knows of them."""
        self.unanswered_claim = None
        self.running.update((order.id, token) for order in orders)
        self.server.channel.send("start", orders)
        return bool(orders)

    def _write(self) -> None:
        """Record the outcomes of the launches that have ended; the next claim follows at once."""
        try:
            sql.finish_launches(self.reports)
        except Error as error:
            if is_outage(error):
                raise
            self._write_one_by_one()
        for it, _ in self.reports:
            if it.status in states.WENT_WRONG:
                trace = (it.traceback or "").rstrip()
                logger.error("Launch %s ended as %s: %s.\n%s", it.id, it.status, it.reason, trace)
        self.reports.clear()
        self._next_write = time.monotonic() + WRITE_INTERVAL_SECONDS
        self._next_claim = 0.0

    def _write_one_by_one(self) -> None:
        """The database has refused one of the outcomes: that one is replaced by what it says."""
        for report, token in self.reports:
            try:
                sql.finish_launches([(report, token)])
            except Error as error:
                if is_outage(error):
                    raise
                sql.finish_launches([(without_content(report, error), token)])

    def _watch(self) -> None:
        """Show that this process is alive, and have launches ended that are cancelled or not its own any more."""
        now = time.monotonic()
        self._next_watch = now + WATCH_INTERVAL_SECONDS
        self.server.wake_if_stopped()
        if self.started:
            sql.write_processes(self.started)
            self.started.clear()
        unwanted = set(sql.cancel_requests(self.owner.pk)) & self.running.keys()
        if now >= self._next_beat:
            self.owner.beat()
            self._next_beat = now + beat_seconds()
            claims = sql.claims_of(self.owner.pk)
            unwanted |= {launch for launch, token in self.running.items() if claims.get(launch) != token}
            self._record_forgotten(claims)
        if unwanted:
            self.server.channel.send("cancelled", list(unwanted))

    def _record_forgotten(self, claims: Mapping[int, int | None]) -> None:
        """Record what is claimed here and does not run here as lost: a database that lost its last commits, or a
        replica that was behind, does not know any more how it ended.
        """
        known = self.running.keys() | {report.id for report, _ in self.reports}
        if forgotten := [pk for pk, token in claims.items() if pk not in known and token != self.unanswered_claim]:
            record_lost_launches(self.owner.pk, "the database has forgotten how it ended", forgotten)

    def _replace_dead_server(self) -> None:
        """The fork server has died: start another, and record what ran under the dead one as lost."""
        logger.error("The process that launches are forked from has died; %s of them are lost.", len(self.running))
        reason = "lost: the process that it was forked from has died, and it was killed"
        now, error = time.time(), encode_error(ProcessDied(reason))
        for launch, token in self.running.items():
            pid, started_at = self.started.get(launch, (None, now))
            report = LaunchReport(launch, states.LOST, reason, error, None, "", "", None, pid, started_at, now)
            self.reports.append((report, token))
        self.running.clear()
        self.started.clear()
        self.server = fork_client.fork_client()


@contextmanager
def _supervisor_lock() -> Iterator[bool]:
    """Whether this process may supervise for its worker; the kernel releases the lock of a process that dies."""
    conf.DATA_DIR.mkdir(parents=True, exist_ok=True)
    with (conf.DATA_DIR / "supervisors.lock").open("a") as file:
        yield _locked(file)


def _byte_of(worker: str) -> int:
    """Which byte of the file stands for this worker: containers that share a folder may have workers with one pid."""
    return int.from_bytes(hashlib.sha256(worker.encode()).digest()[:7], "big")


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte_of(WORKER_ID))
    except OSError:
        return False
    return True
