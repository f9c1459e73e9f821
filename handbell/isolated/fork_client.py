"""The supervisor's side of the fork server: starts that program, talks to it, and ends it."""

import logging
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
from typing import Any

from celery import current_app

from handbell.common import procfs
from handbell.common.child_process import adopt_orphans, end_with_peer, set_owner, working_directory
from handbell.errors import ProcessDied
from handbell.isolated import orphans
from handbell.isolated.declare import IsolatedTask
from handbell.isolated.process_labels import LABEL_VARIABLE, ProcessLabel
from handbell.isolated.protocol import Channel

FORK_SERVER_START_SECONDS = 60.0
logger = logging.getLogger(__name__)
# Importing the package needs Django's models, and `python -m` would import it before Django is set up.
PROGRAM = f"import django; django.setup(); from {orphans.FORK_SERVER_MODULE} import main; main()"
# One allocator for everything, in huge pages: a fork copies page tables, and with these there is a third less to copy.
SHARED_PAGES_ENVIRONMENT = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class ForkClient:
    """A fork server that runs, or is about to. Its `name` is in the label of everything that is started under it."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self._is_ready = False
        self._other_children = set(procfs.children_of(os.getpid()))
        adopt_orphans()  # should the fork server be killed, what it leaves behind comes to this process
        our_end, its_end = socket.socketpair()
        with its_end:
            environment = {
                **os.environ,
                **SHARED_PAGES_ENVIRONMENT,
                LABEL_VARIABLE: ProcessLabel(self.name, None).text(),
            }
            end_with_peer(its_end)  # until it looks at the socket itself
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(its_end.fileno()), *_task_modules()],
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=working_directory(),
                pass_fds=[its_end.fileno()],
                start_new_session=True,  # so that whoever kills the worker's process group leaves it alive to clean up
            )
            set_owner(its_end, self.process.pid)
            self.channel = Channel(our_end)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.channel.socket, selectors.EVENT_READ)

    def wait(self, seconds: float, *others: int) -> None:
        """Wait until it says something, `seconds` are over, or one of the file descriptors `others` is readable."""
        for other in others:
            with suppress(KeyError):
                self._selector.register(other, selectors.EVENT_READ)
        self._selector.modify(
            self.channel.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if self.channel.flush() else 0)
        )
        self._selector.select(seconds)

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What it has said: each message's kind and content."""
        return self.channel.receive()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still was when it was last listened to."""
        return not self.channel.closed

    def close(self) -> None:
        """End it, if it has not ended yet, and everything that was started under it."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self._selector.close()
        self.channel.socket.close()
        orphans.end_fork_server(self.name)
        self._end_adopted()

    def wake_if_stopped(self) -> None:
        """A fork server that somebody has stopped (SIGSTOP) meets no deadlines: have it go on."""
        stat = procfs.process_stat(self.pid)
        if stat is not None and stat.is_stopped:
            logger.warning("The process that launches are forked from was stopped; it goes on.")
            procfs.signal_process(signal.SIGCONT, stat.process)

    def _end_adopted(self) -> None:
        """Kill what the fork server has left to this process: what hides its label, too."""
        for _ in range(orphans.MAX_PASSES):
            adopted = set(procfs.children_of(os.getpid())) - self._other_children
            if not adopted:
                return
            for pid in adopted:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # our own child, so the number is its own until we reap it
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(orphans.PASS_SECONDS)

    def wait_until_ready(self) -> None:
        """Wait until it has loaded the tasks.

        Raises:
            ProcessDied: it did not start.
        """
        deadline = time.monotonic() + FORK_SERVER_START_SECONDS
        while not self._is_ready and self.is_alive and time.monotonic() < deadline:
            self.wait(deadline - time.monotonic())
            self._is_ready = any(kind == "ready" for kind, _ in self.messages())
        if self._is_ready:
            return
        self.process.send_signal(signal.SIGKILL)
        self.close()
        raise ProcessDied("The process that launches are forked from did not start; its output says why.")


class _Current:
    """The fork server of this process. A fork has a copy of this, and must not use it."""

    client: ForkClient | None = None
    pid = 0


def fork_client() -> ForkClient:
    """This process's fork server, which is ready; started if there is none, or if it has died.

    Raises:
        ProcessDied: it did not start.
    """
    client = started_fork_client()
    client.wait_until_ready()
    return client


def started_fork_client() -> ForkClient:
    """The same, perhaps not ready yet."""
    if _Current.pid != os.getpid():
        _Current.client, _Current.pid = None, os.getpid()
    if _Current.client is not None and not _Current.client.is_alive:
        _Current.client.close()
        _Current.client = None
    if _Current.client is None:
        orphans.end_orphans()  # of a worker that was killed here before
        _Current.client = ForkClient()
    return _Current.client


def close_fork_client() -> None:
    """End this process's fork server, if it has one."""
    if _Current.client is not None and _Current.pid == os.getpid():
        _Current.client.close()
    _Current.client = None


def _task_modules() -> list[str]:
    """The modules of all isolated tasks, some of which a worker may have loaded with --include."""
    return sorted({type(task).__module__ for task in current_app.tasks.values() if isinstance(task, IsolatedTask)})
