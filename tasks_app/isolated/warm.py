"""A supervisor's handle on its forker: a program of its own, not a copy of the worker."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import current_app
from django.conf import settings

from tasks_app.children import adopt_orphans
from tasks_app.errors import ProcessDied
from tasks_app.isolated import orphans
from tasks_app.isolated.declare import IsolatedTask
from tasks_app.isolated.messages import Channel
from tasks_app.isolated.processes import MARK

START_SECONDS = 60.0
NUMBER_LENGTH = 20
# The package needs Django's models, so Django comes first; with `-m` the package would.
PROGRAM = f"import django; django.setup(); from {orphans.FORKER} import main; main()"
# One allocator for everything, in huge pages: a fork copies page tables, and with these there is a third less to copy.
SPARING = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Forker:
    """A forker that runs. Its `name` is in the mark of everything that is started under it."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        adopt_orphans()  # should the forker be killed, what it leaves behind comes to this process
        ours, its = socket.socketpair()
        with its:
            environment = {
                **os.environ,
                **SPARING,
                MARK: f"{self.name}:{'':<{NUMBER_LENGTH}}",
            }
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(its.fileno()), *_modules()],
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=Path(settings.BASE_DIR),
                pass_fds=[its.fileno()],
                start_new_session=True,  # whoever kills the worker's whole group leaves it alive to clean up
            )
            self.channel = Channel(ours)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.channel.socket, selectors.EVENT_READ)
        self._wait_until_ready()

    def wait(self, seconds: float, *others: int) -> None:
        """Until it says something, `seconds` are over, or there is something to read in one of `others`."""
        for other in others:
            with suppress(KeyError):
                self._selector.register(other, selectors.EVENT_READ)
        self._selector.modify(
            self.channel.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if self.channel.flush() else 0)
        )
        self._selector.select(seconds)

    def messages(self) -> Iterator[tuple[str, Any]]:
        return self.channel.receive()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return not self.channel.closed

    def bury(self) -> None:
        """After its death, or to end it: nothing that was started under it stays."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self._selector.close()
        self.channel.socket.close()
        orphans.end_forker(self.name)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.alive and time.monotonic() < deadline:
            self.wait(deadline - time.monotonic())
            if any(kind == "ready" for kind, _ in self.messages()):
                return
        self.process.send_signal(signal.SIGKILL)
        self.bury()
        raise ProcessDied("The process that launches are forked from did not start; its output says why.")


class _Kept:
    forker: Forker | None = None
    owner = 0


def forker() -> Forker:
    """This process's forker; started if there is none, or none that lives."""
    if _Kept.owner != os.getpid():
        _Kept.forker, _Kept.owner = None, os.getpid()
    if _Kept.forker is not None and not _Kept.forker.alive:
        _Kept.forker.bury()
        _Kept.forker = None
    if _Kept.forker is None:
        orphans.end_orphans()  # of a worker that was killed here before
        _Kept.forker = Forker()
    return _Kept.forker


def let_go() -> None:
    """End this process's forker, if it has one."""
    if _Kept.forker is not None and _Kept.owner == os.getpid():
        _Kept.forker.bury()
    _Kept.forker = None


def _modules() -> list[str]:
    """Where tasks come from, apart from those that every process loads."""
    return sorted({type(task).__module__ for task in current_app.tasks.values() if isinstance(task, IsolatedTask)})
