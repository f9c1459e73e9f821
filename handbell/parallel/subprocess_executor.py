"""Running items in a subprocess, so that an item that kills its process or never returns fails alone.

The child reports through a pipe which item it begins and what its result is: `B number`, `R number result`, `F number
error`. If the child dies, the item that it had begun has failed; if an item takes too long, it has failed and the child
is killed. A new child continues with the rest.

Children are forked from a fork server of Python's own, which has one thread and has loaded all tasks (`preload`): a
process that has several threads must not be forked, because the child may wait for ever for a lock that one of them
held. https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

import json
import multiprocessing
import multiprocessing.process
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from celery import current_app

from handbell.common.child_process import describe_exit, die_with_parent
from handbell.common.codec import encode
from handbell.errors import ItemTimedOut, ProcessDied
from handbell.parallel.executor import (
    ChunkOutcome,
    FailedItem,
    StopCondition,
    compose_stages,
    encode_item,
    failed_item,
    run_in_threads,
    run_sequentially,
)

CHECK_SECONDS = 0.1  # how often the parent looks at the clock while the child reports nothing
MAX_VAIN_STARTS = 3  # of children that die before they begin an item
VAIN_START_PAUSE_SECONDS = 1.0

_forkserver = multiprocessing.get_context("forkserver")
_main_process = multiprocessing.current_process()  # this module is imported before the pool's processes are forked
CURRENT_PROCESS = "_current_process"  # of multiprocessing.process


class SubprocessExecutor:
    """Takes items through the stages in a subprocess, and in another one when that has died or was killed.
    `item_timeout` is in seconds.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Any]],
        items: Sequence[Any],
        stop: StopCondition,
        threads: int = 1,
        item_timeout: float | None = None,
    ) -> None:
        self.stages, self.items, self.stop, self.threads = stages, items, stop, threads
        self.item_timeout = item_timeout or float("inf")
        self.results: dict[int, Any] = {}
        self.failed: dict[int, FailedItem] = {}
        self.running_since: dict[int, float] = {}  # the items that the child runs now
        self.has_begun = False  # the child has begun an item

    def run(self) -> ChunkOutcome:
        threads, vain_starts = self.threads, 0
        while (left := self._not_run_yet()) and not (self.stop() and left[0] > 0):
            how = self._run_child(left, threads)
            # If several items ran when the child died, any of them may have killed it: run one at a time to find out.
            threads = 1 if self.running_since else self.threads
            vain_starts = 0 if self.has_begun else vain_starts + 1
            if vain_starts == MAX_VAIN_STARTS:
                error = ProcessDied(f"the process died {vain_starts} times before it began an item: {how}")
                for number in left:
                    self._fail(number, error)
            elif vain_starts:
                time.sleep(VAIN_START_PAUSE_SECONDS)
        done = left[0] if left else len(self.items)
        results = [self.results.get(number) for number in range(done)]
        return ChunkOutcome(results, [self.failed[number] for number in sorted(self.failed) if number < done])

    def _not_run_yet(self) -> list[int]:
        return [n for n in range(len(self.items)) if n not in self.results and n not in self.failed]

    def _run_child(self, numbers: list[int], threads: int) -> str:
        """Run the items with these numbers in a new child until it ends or has to be killed; how it ended."""
        self.running_since.clear()
        self.has_begun = False
        _forkserver.set_forkserver_preload(_modules_to_load())
        reading, writing = _forkserver.Pipe(duplex=False)
        items = [self.items[number] for number in numbers]
        arguments = (self.stages, items, numbers, self.stop.seconds_left(), threads, writing)
        with _as_main_process():
            child = _forkserver.Process(target=_run_in_child, args=arguments)
            child.start()
        writing.close()
        try:
            self._read_reports(child, reading.fileno())
        finally:
            reading.close()
            for kill in (os.killpg, os.kill):  # its process group is whatever it has started
                with suppress(ProcessLookupError):
                    kill(child.pid or 0, signal.SIGKILL)
            child.join()
        how = describe_exit(child.exitcode or 0)
        child.close()
        if len(self.running_since) == 1:
            (number,) = self.running_since
            self._fail(number, ProcessDied(f"the process that ran the item died: {how}"))
        return how

    def _read_reports(self, child: Any, reading: int) -> None:
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
            elif child.exitcode is not None:
                return  # something that it has started still holds the pipe open
            late = [n for n, since in self.running_since.items() if time.monotonic() - since > self.item_timeout]
            for number in late:
                self._fail(number, ItemTimedOut(f"the item took longer than {self.item_timeout:g} s"))
            if late:
                self.running_since.clear()  # the others have done nothing wrong, and run again
                return
            if self.stop.now.is_set() and not told_to_stop:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGUSR1)
                told_to_stop = True

    def _record(self, line: bytes) -> None:
        """Take in one report of the child."""
        kind, _, rest = line.partition(b" ")
        number, _, text = rest.partition(b" ")
        index = int(number)
        if kind == b"B":
            self.running_since[index] = time.monotonic()
            self.has_begun = True
            return
        self.running_since.pop(index, None)
        if kind == b"R":
            self.results[index] = json.loads(text)
        else:
            self.failed[index] = FailedItem(index, *json.loads(text))

    def _fail(self, number: int, error: Exception) -> None:
        self.running_since.pop(number, None)
        self.failed[number] = FailedItem(number, f"{type(error).__name__}: {error}", "")


@contextmanager
def _as_main_process() -> Iterator[None]:
    """Let multiprocessing start children. billiard, whose pool this process may be of, makes it pass for a process of
    multiprocessing's, too: a daemon, which may have none (billiard/process.py, `_set_current_process`).
    """
    before = multiprocessing.current_process()
    setattr(multiprocessing.process, CURRENT_PROCESS, _main_process)
    try:
        yield
    finally:
        setattr(multiprocessing.process, CURRENT_PROCESS, before)


def _modules_to_load() -> list[str]:
    """What the fork server imports: Django and all tasks, and those that a worker has loaded with --include."""
    tasks = {type(task).__module__ for task in current_app.tasks.values()}
    return ["handbell.parallel.preload", *sorted(tasks)]


def _run_in_child(
    stages: Sequence[Sequence[Any]],
    items: Sequence[Any],
    numbers: Sequence[int],
    seconds: float,
    threads: int,
    pipe: Any,
) -> NoReturn:
    """What the child does: run the items, which have these numbers, and exit."""
    code = 1
    try:
        os.setsid()
        die_with_parent(signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        stop = StopCondition(seconds)
        signal.signal(signal.SIGUSR1, lambda *_: stop.now.set())
        run = _reporting(compose_stages(stages), dict(zip(numbers, items, strict=True)), pipe.fileno())
        if threads > 1:
            run_in_threads(run, numbers, stop, threads)
        else:
            run_sequentially(run, numbers, stop)
        code = 0
    finally:
        os._exit(code)


def _reporting(call: Callable[[Any], Any], items: dict[int, Any], writing: int) -> Callable[[int], None]:
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
