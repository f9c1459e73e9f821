"""The supervisor: claims launches, has them started, and writes what came of them. It knows rows, and no processes.

There is one at a time in each worker, and it is a Celery task: it begins at a doorbell, and ends when nothing waits and
nothing runs. Its forker stays warm for the next one.
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
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction

from tasks_app import states
from tasks_app.errors import ProcessDied
from tasks_app.isolated import doorbell, endings, ledger, stopping, warm
from tasks_app.isolated.messages import Ending
from tasks_app.queues import ISOLATED

LOOK_SECONDS = 0.05  # for launches that wait, while others run
WRITE_SECONDS = 0.02  # what ends within this long is written together
WATCH_SECONDS = 0.25  # for those that somebody cancels
PAUSE_SECONDS = 0.5  # before a database that does not answer is asked again
GONE = (OperationalError, InterfaceError)
logger = logging.getLogger(__name__)


@shared_task(name=doorbell.SUPERVISE, queue=ISOLATED.name, ignore_result=True)
def supervise() -> None:
    """Run what waits, until nothing waits and nothing runs."""
    doorbell.answer()
    while True:
        with _only_one() as ours:
            if not ours:
                return  # the one that is at work looks for itself
            stopped = Supervisor(warm.forker()).run()
        # One that found us at work has left again, perhaps after our last look.
        if stopped or not ledger.waiting():
            return


class Supervisor:
    """One run of a supervisor, with a forker that is ready."""

    def __init__(self, forker: warm.Forker) -> None:
        self.forker = forker
        self.host = socket.gethostname()
        self.running: set[int] = set()
        self.ended: list[Ending] = []
        self.began: dict[int, tuple[int, float]] = {}
        self.stop_at: float | None = None
        self._next_look = self._next_write = self._next_watch = self._next_renewal = 0.0
        self._full = False

    def run(self) -> bool:
        """Work until nothing waits and nothing runs, or until the worker is told to stop; whether it was."""
        while True:
            try:
                self._work()
                if not self.running and not self.ended and (self.stop_at is not None or not self._claim()):
                    return self.stop_at is not None
            except GONE as error:
                logger.warning("The ledger could not be reached: %s. Launches go on.", str(error).strip())
                connection.close()
                self._hear(PAUSE_SECONDS)
            self._hear(self._until_something_is_due())
            if not self.forker.alive:
                self._mourn()

    def _work(self) -> None:
        now = time.monotonic()
        if self.stop_at is None and stopping.is_told():
            self.stop_at = now + settings.LAUNCH_STOP_SECONDS
        elif self.stop_at is not None and now >= self.stop_at and self.running:
            self.forker.channel.send("stopped", list(self.running))
            self.stop_at = float("inf")
        if self.ended and (now >= self._next_write or not self.running):
            self._write()
        if now >= self._next_look:
            self._claim()
        if self.running and now >= self._next_watch:
            self._watch()

    def _until_something_is_due(self) -> float:
        due = self._next_watch
        if self.stop_at is None and len(self.running) < settings.LAUNCH_CONCURRENCY:
            due = min(due, self._next_look)
        if self.ended:
            due = min(due, self._next_write)
        if self.stop_at is not None:
            due = min(due, self.stop_at)
        return max(0.0, due - time.monotonic())

    def _hear(self, seconds: float) -> None:
        """Listen to the forker."""
        self.forker.wait(seconds, *(stopping.descriptors() if self.stop_at is None else ()))
        for kind, content in self.forker.messages():
            if kind == "ended":
                ending = Ending(*content)
                self.running.discard(ending.id)
                self.began.pop(ending.id, None)
                self.ended.append(ending)
            elif kind == "began":
                self.began.update({launch: (pid, at) for launch, pid, at in content})

    def _claim(self) -> bool:
        """Claim as many as there is room for, and have them started; whether there were any."""
        self._next_look = time.monotonic() + LOOK_SECONDS
        room = settings.LAUNCH_CONCURRENCY - len(self.running)
        if self.stop_at is not None or room <= 0 or not ledger.waiting():
            self._full = False if room > 0 else self._full
            return False
        orders = ledger.claim(self.forker.name, self.host, room)
        self.running.update(order.id for order in orders)
        self.forker.channel.send("start", orders)
        if not self._full and len(orders) == room and ledger.waiting():
            self._full = True
            doorbell.ring()  # somebody else may have room
        return bool(orders)

    def _write(self) -> None:
        """Write what has ended, and claim as much again, in one transaction."""
        with transaction.atomic():
            ledger.finish(self.forker.name, self.ended)
        self.ended.clear()
        self._next_write = time.monotonic() + WRITE_SECONDS
        self._next_look = 0.0

    def _watch(self) -> None:
        """End what somebody cancels or what is not ours any more, and say that we are alive."""
        now = time.monotonic()
        self._next_watch = now + WATCH_SECONDS
        if self.began:
            ledger.note_processes(self.began)
            self.began.clear()
        unwanted = set(ledger.to_be_cancelled(self.forker.name))
        if now >= self._next_renewal:
            self._next_renewal = now + settings.LAUNCH_LEASE_SECONDS / 3
            ours = ledger.renew(self.forker.name)
            unwanted |= self.running - ours
            # The answer to a claim was lost with the connection.
            if unknown := ours - self.running - {ending.id for ending in self.ended}:
                ledger.give_back(self.forker.name, unknown)
        if unwanted & self.running:
            self.forker.channel.send("cancelled", list(unwanted & self.running))

    def _mourn(self) -> None:
        """The forker has died: so have its launches, and nothing that they started stays."""
        logger.error("The process that launches are forked from has died; %s of them are lost.", len(self.running))
        reason = "lost: the process that it was forked from has died, and it was killed"
        now, error = time.time(), endings.error(ProcessDied(reason))
        for launch in self.running:
            pid, began = self.began.get(launch, (None, now))
            self.ended.append(Ending(launch, states.LOST, reason, error, None, "", "", None, pid, began, now))
        self.running.clear()
        self.began.clear()
        name = self.forker.name
        self.forker = warm.forker()
        self._write_for(name)

    def _write_for(self, name: str) -> None:
        while self.ended:
            try:
                with transaction.atomic():
                    ledger.finish(name, self.ended)
                self.ended.clear()
            except GONE:
                connection.close()
                time.sleep(PAUSE_SECONDS)


@contextmanager
def _only_one() -> Iterator[bool]:
    """Whether this process may supervise for its worker; the kernel lets go of the lock of one that dies."""
    with (settings.VAR_DIR / "supervisors.lock").open("a") as file:
        yield _locked(file)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, os.getppid())  # one byte per worker, by its number
    except OSError:
        return False
    return True
