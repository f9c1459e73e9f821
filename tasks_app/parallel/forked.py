"""Running items in a process of their own, so that one that kills its process or never returns costs only itself.

The child says through a pipe which item it begins and what came of it. When it dies, the item that it had begun is
to blame; when an item takes too long, the child is killed. A new child goes on with the rest.
"""

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from celery import current_app
from django.db import connections

from tasks_app.children import describe_exit, die_with_parent
from tasks_app.errors import ItemTimedOut, ProcessDied
from tasks_app.models.job_handle import encode
from tasks_app.parallel.run import Failed, Outcome, Stop, as_item, describe, run_here, run_in_threads

LOOK_SECONDS = 0.1  # how often the parent looks at the clock while the child says nothing
_kept: list[Any] = []  # connections of the parent: the child must neither use nor close them


class Forked:
    """Runs items in children, one child after the other."""

    def __init__(
        self, call: Callable[[Any], Any], items: Sequence[Any], stop: Stop, threads: int, item_timeout: float | None
    ) -> None:
        self.call, self.items, self.stop, self.threads = call, items, stop, threads
        self.item_timeout = item_timeout or float("inf")
        self.results: dict[int, Any] = {}
        self.failed: dict[int, Failed] = {}
        self.begun: dict[int, float] = {}  # items that are being run, and since when

    def run(self) -> Outcome:
        threads = self.threads
        while (left := self._left()) and not (self.stop() and left[0] > 0):
            self._run_child(left, threads)
            # Of several that were being run any may be to blame: go on one at a time until it is found.
            threads = 1 if self.begun else self.threads
        done = left[0] if left else len(self.items)
        results = [self.results.get(number) for number in range(done)]
        return Outcome(results, [self.failed[number] for number in sorted(self.failed) if number < done])

    def _left(self) -> list[int]:
        return [n for n in range(len(self.items)) if n not in self.results and n not in self.failed]

    def _run_child(self, todo: list[int], threads: int) -> None:
        self.begun.clear()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            _be_the_child(self.call, self.items, todo, self.stop, threads, writing)
        os.close(writing)
        try:
            self._listen(pid, reading)
        finally:
            os.close(reading)
            for kill in (os.killpg, os.kill):  # whatever it has started, too
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        if len(self.begun) == 1:
            (number,) = self.begun
            how = describe_exit(os.waitstatus_to_exitcode(status))
            self._fail(number, ProcessDied(f"the process that ran the item died: {how}"))

    def _listen(self, pid: int, reading: int) -> None:
        """Until the child has no more to say, or an item takes too long."""
        rest, told = b"", False
        while True:
            ready, _, _ = select.select([reading], [], [], LOOK_SECONDS)
            if ready:
                data = os.read(reading, 1 << 20)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._note(line)
            elif os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return  # and something that it has started holds the pipe
            late = [n for n, since in self.begun.items() if time.monotonic() - since > self.item_timeout]
            for number in late:
                self._fail(number, ItemTimedOut(f"the item took longer than {self.item_timeout:g} s"))
            if late:
                self.begun.clear()  # the others are not to blame, and run again
                return
            if self.stop.now.is_set() and not told:
                os.kill(pid, signal.SIGUSR1)
                told = True

    def _note(self, line: bytes) -> None:
        kind, _, rest = line.partition(b" ")
        number, _, text = rest.partition(b" ")
        index = int(number)
        if kind == b"B":
            self.begun[index] = time.monotonic()
            return
        self.begun.pop(index, None)
        if kind == b"R":
            self.results[index] = json.loads(text)
        else:
            self.failed[index] = Failed(index, *json.loads(text))

    def _fail(self, number: int, error: Exception) -> None:
        self.begun.pop(number, None)
        self.failed[number] = Failed(number, f"{type(error).__name__}: {error}", "")


def _be_the_child(
    call: Callable[[Any], Any], items: Sequence[Any], todo: list[int], stop: Stop, threads: int, writing: int
) -> None:
    code = 1
    try:
        os.setsid()
        die_with_parent()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        stopped = Stop()
        stopped.at = stop.at
        signal.signal(signal.SIGUSR1, lambda *_: stopped.now.set())
        for connection in connections.all(initialized_only=True):
            _kept.append(connection.connection)
            connection.connection = None
        current_app._after_fork()  # type: ignore[attr-defined]  # noqa: SLF001  (no socket of the parent's is used)
        run = _telling(call, items, writing)
        if threads > 1:
            run_in_threads(run, todo, stopped, threads)
        else:
            run_here(run, todo, stopped)
        code = 0
    finally:
        os._exit(code)


def _telling(call: Callable[[Any], Any], items: Sequence[Any], writing: int) -> Callable[[int], None]:
    lock = threading.Lock()

    def tell(text: str) -> None:
        data = memoryview(text.encode())
        with lock:
            while data:
                data = data[os.write(writing, data) :]

    def run(number: int) -> None:
        tell(f"B {number}\n")
        try:
            text = as_item(call(items[number]))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it is, it is the item's own)
            _, line, trace = describe(number, error)
            tell(f"F {number} {encode([line, trace])}\n")
        else:
            tell(f"R {number} {text}\n")

    return run
