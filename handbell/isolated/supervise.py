"""The supervisor: claims launches, has them started, and records their outcomes. It knows rows, and no processes.

There is one at a time in each worker, and it is a Celery task: it begins at a doorbell, and ends when nothing waits and
nothing runs. Its fork server stays for the next one.
"""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from celery import shared_task
from django.db import connection, transaction

from handbell import states
from handbell.common.codec import encode_error
from handbell.common.doorbell import NO_LIMIT_SECONDS
from handbell.common.leases import renewal_seconds
from handbell.common.outages import OUTAGE_ERRORS, retry_through_outage
from handbell.conf import conf
from handbell.errors import ProcessDied
from handbell.isolated import fork_client, sql, stop_pipe
from handbell.isolated.doorbell import SUPERVISE, launches_doorbell
from handbell.isolated.protocol import LaunchReport

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
            stopped = LaunchSupervisor(fork_client.fork_client()).run()
        # A doorbell may have found this one at work, and ended, after its last look at what waits.
        if stopped or not sql.has_queued_launches():
            return


class LaunchSupervisor:
    """One run of a supervisor, with a fork server that is ready."""

    def __init__(self, server: fork_client.ForkClient) -> None:
        self.server = server
        self.host = socket.gethostname()
        self.running: set[int] = set()
        self.reports: list[LaunchReport] = []  # to be written
        self.started: dict[int, tuple[int, float]] = {}  # by launch: the pid and the start time, to be written
        self.stop_due: float | None = None  # when to end what still runs, once the worker was told to stop
        self._next_claim = self._next_write = self._next_watch = self._next_renewal = 0.0
        self._has_called_others = False

    def run(self) -> bool:
        """Work until nothing waits and nothing runs, or until the worker is told to stop; whether it was."""
        while True:
            try:
                self._handle_due()
                if not self.running and not self.reports and (self.stop_due is not None or not self._claim()):
                    return self.stop_due is not None
            except OUTAGE_ERRORS as error:
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
                self.running.discard(report.id)
                self.started.pop(report.id, None)
                self.reports.append(report)
            elif kind == "started":
                self.started.update({launch: (pid, started_at) for launch, pid, started_at in content})

    def _claim(self) -> bool:
        """Claim as many as there is room for, and have them started; whether there were any."""
        self._next_claim = time.monotonic() + CLAIM_INTERVAL_SECONDS
        room = conf.LAUNCH_CONCURRENCY - len(self.running)
        if self.stop_due is not None or room <= 0 or not sql.has_queued_launches():
            if room > 0:
                self._has_called_others = False
            return False
        orders = sql.claim_launches(self.server.name, self.host, room)
        self.running.update(order.id for order in orders)
        self.server.channel.send("start", orders)
        if not self._has_called_others and len(orders) == room and sql.has_queued_launches():
            self._has_called_others = True
            launches_doorbell.ring()  # another worker may have room
        return bool(orders)

    def _write(self) -> None:
        """Record the outcomes of the launches that have ended; the next claim follows at once."""
        self._write_reports(self.server.name)
        self._next_write = time.monotonic() + WRITE_INTERVAL_SECONDS
        self._next_claim = 0.0

    def _write_reports(self, supervisor: str) -> None:
        """In one transaction; then log those that went wrong."""
        with transaction.atomic():
            sql.finish_launches(supervisor, self.reports)
        for it in self.reports:
            if it.status in states.WENT_WRONG:
                trace = (it.traceback or "").rstrip()
                logger.error("Launch %s ended as %s: %s.\n%s", it.id, it.status, it.reason, trace)
        self.reports.clear()

    def _watch(self) -> None:
        """Renew the claims, and have launches ended that are cancelled or not this supervisor's any more."""
        now = time.monotonic()
        self._next_watch = now + WATCH_INTERVAL_SECONDS
        if self.started:
            sql.write_processes(self.started)
            self.started.clear()
        unwanted = set(sql.cancel_requests(self.server.name))
        if now >= self._next_renewal:
            self._next_renewal = now + renewal_seconds()
            claimed = sql.renew_claims(self.server.name)
            unwanted |= self.running - claimed
            # Claimed, but the answer was lost with the connection: these were never started.
            if unknown := claimed - self.running - {report.id for report in self.reports}:
                sql.requeue_launches(self.server.name, unknown)
        if unwanted & self.running:
            self.server.channel.send("cancelled", list(unwanted & self.running))

    def _replace_dead_server(self) -> None:
        """The fork server has died: start another, and record what ran under the dead one as lost."""
        logger.error("The process that launches are forked from has died; %s of them are lost.", len(self.running))
        reason = "lost: the process that it was forked from has died, and it was killed"
        now, error = time.time(), encode_error(ProcessDied(reason))
        for launch in self.running:
            pid, started_at = self.started.get(launch, (None, now))
            report = LaunchReport(launch, states.LOST, reason, error, None, "", "", None, pid, started_at, now)
            self.reports.append(report)
        self.running.clear()
        self.started.clear()
        dead = self.server.name
        self.server = fork_client.fork_client()
        # All claims so far are in the dead one's name, so nothing else can be done before this is written.
        retry_through_outage(lambda: self._write_reports(dead), seconds=float("inf"))


@contextmanager
def _supervisor_lock() -> Iterator[bool]:
    """Whether this process may supervise for its worker; the kernel releases the lock of a process that dies."""
    conf.DATA_DIR.mkdir(parents=True, exist_ok=True)
    with (conf.DATA_DIR / "supervisors.lock").open("a") as file:
        yield _locked(file)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, os.getppid())  # one byte per worker, by its number
    except OSError:
        return False
    return True
