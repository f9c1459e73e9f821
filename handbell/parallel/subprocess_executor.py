"""Running items in a subprocess, so that an item that kills its process or never returns fails alone.

The child reports through a pipe which item it begins and what its result is: `B number`, `R number result`, `F number
error`. If the child dies, the item that it had begun has failed; if an item takes too long, it has failed and the child
is killed. A new child continues with the rest.
"""

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from celery import current_app
from django.db import connections

from handbell.common.child_process import describe_exit, die_with_parent
from handbell.common.codec import encode
from handbell.errors import ItemTimedOut, ProcessDied
from handbell.parallel.executor import (
    ChunkOutcome,
    FailedItem,
    StopCondition,
    encode_item,
    failed_item,
    run_in_threads,
    run_sequentially,
)

CHECK_SECONDS = 0.1  # how often the parent looks at the clock while the child reports nothing
_parent_connections: list[Any] = []  # the child must neither use nor close them, so it keeps them referenced


class SubprocessExecutor:
    """Runs items in a subprocess, and in another one when that has died or was killed. `item_timeout` is in seconds."""

    def __init__(
        self,
        call: Callable[[Any], Any],
        items: Sequence[Any],
        stop: StopCondition,
        threads: int,
        item_timeout: float | None,
    ) -> None:
        self.call, self.items, self.stop, self.threads = call, items, stop, threads
        self.item_timeout = item_timeout or float("inf")
        self.results: dict[int, Any] = {}
        self.failed: dict[int, FailedItem] = {}
        self.running_since: dict[int, float] = {}  # the items that the child runs now

    def run(self) -> ChunkOutcome:
        threads = self.threads
        while (left := self._not_run_yet()) and not (self.stop() and left[0] > 0):
            self._run_child(left, threads)
            # If several items ran when the child died, any of them may have killed it: run one at a time to find out.
            threads = 1 if self.running_since else self.threads
        done = left[0] if left else len(self.items)
        results = [self.results.get(number) for number in range(done)]
        return ChunkOutcome(results, [self.failed[number] for number in sorted(self.failed) if number < done])

    def _not_run_yet(self) -> list[int]:
        return [n for n in range(len(self.items)) if n not in self.results and n not in self.failed]

    def _run_child(self, numbers: list[int], threads: int) -> None:
        """Run the items with these numbers in a new child until it ends or has to be killed."""
        self.running_since.clear()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            _run_in_child(self.call, self.items, numbers, self.stop, threads, writing)
        os.close(writing)
        try:
            self._read_reports(pid, reading)
        finally:
            os.close(reading)
            for kill in (os.killpg, os.kill):  # its process group is whatever it has started
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        if len(self.running_since) == 1:
            (number,) = self.running_since
            how = describe_exit(os.waitstatus_to_exitcode(status))
            self._fail(number, ProcessDied(f"the process that ran the item died: {how}"))

    def _read_reports(self, pid: int, reading: int) -> None:
        """Read what the child reports until it has ended or an item takes too long."""
        rest, told_to_stop = b"", False
        while True:
            ready, _, _ = select.select([reading], [], [], CHECK_SECONDS)
            if ready:
                data = os.read(reading, 1 << 20)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._record(line)
            elif os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return  # something that it has started still holds the pipe open
            late = [n for n, since in self.running_since.items() if time.monotonic() - since > self.item_timeout]
            for number in late:
                self._fail(number, ItemTimedOut(f"the item took longer than {self.item_timeout:g} s"))
            if late:
                self.running_since.clear()  # the others have done nothing wrong, and run again
                return
            if self.stop.now.is_set() and not told_to_stop:
                os.kill(pid, signal.SIGUSR1)
                told_to_stop = True

    def _record(self, line: bytes) -> None:
        """Take in one report of the child."""
        kind, _, rest = line.partition(b" ")
        number, _, text = rest.partition(b" ")
        index = int(number)
        if kind == b"B":
            self.running_since[index] = time.monotonic()
            return
        self.running_since.pop(index, None)
        if kind == b"R":
            self.results[index] = json.loads(text)
        else:
            self.failed[index] = FailedItem(index, *json.loads(text))

    def _fail(self, number: int, error: Exception) -> None:
        self.running_since.pop(number, None)
        self.failed[number] = FailedItem(number, f"{type(error).__name__}: {error}", "")


def _run_in_child(
    call: Callable[[Any], Any],
    items: Sequence[Any],
    numbers: list[int],
    stop: StopCondition,
    threads: int,
    writing: int,
) -> NoReturn:
    """What the child does: run the items with these numbers, and exit."""
    code = 1
    try:
        os.setsid()
        die_with_parent()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        own_stop = StopCondition()
        own_stop.deadline = stop.deadline
        signal.signal(signal.SIGUSR1, lambda *_: own_stop.now.set())
        for connection in connections.all(initialized_only=True):
            _parent_connections.append(connection.connection)
            connection.connection = None
        current_app._after_fork()  # type: ignore[attr-defined]  # noqa: SLF001  (no socket of the parent's is used)
        run = _reporting(call, items, writing)
        if threads > 1:
            run_in_threads(run, numbers, own_stop, threads)
        else:
            run_sequentially(run, numbers, own_stop)
        code = 0
    finally:
        os._exit(code)


def _reporting(call: Callable[[Any], Any], items: Sequence[Any], writing: int) -> Callable[[int], None]:
    """A function that runs the item with a number, and writes reports of it to the pipe."""
    lock = threading.Lock()

    def report(text: str) -> None:
        data = memoryview(text.encode())
        with lock:
            while data:
                data = data[os.write(writing, data) :]

    def run(number: int) -> None:
        report(f"B {number}\n")
        try:
            text = encode_item(call(items[number]))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it is, it is the item's own)
            _, text, trace = failed_item(number, error)
            report(f"F {number} {encode([text, trace])}\n")
        else:
            report(f"R {number} {text}\n")

    return run
