"""The batch that a process runs, in memory that its worker's main process sees: the call that runs now, since when, and
the results that are not written yet.

So the main process can help when a call takes longer than was expected, whatever its process is doing: it gives back
the calls that have not begun, and writes the results of those that have ended.
"""

import json
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from handbell.common.claims import is_main_process
from handbell.common.slots import MAX_PROCESSES, MAX_THREADS, SlotTable, leave_slot, take_slot

SURPRISE_SECONDS = 0.1  # that a call may take longer than was expected
RESULTS_BYTES = 32 * 1024  # of a process, that are kept; any more are written at once
Result = tuple[str, int, dict[str, Any]]  # the id, the token of the claim, and what changes in the result's row

_running = SlotTable("=qqqdd")
_recalled = SlotTable("=q")  # the token of a batch


class RunningBatch(NamedTuple):
    """What a process runs: the token under which it has claimed the batch, and the id of the call that runs now, 0
    between two; since when, and from when on it takes longer than was expected, by the monotonic clock.
    """

    pid: int
    token: int
    call: int
    started: float
    overdue: float


class _Results:
    """`memory` is there in workers, and nowhere else."""

    memory: ClassVar[mmap.mmap | None] = None
    head = struct.Struct("=qd")  # how many bytes there are, and when the first came by the monotonic clock
    size = head.size + RESULTS_BYTES

    @classmethod
    def open(cls) -> None:
        cls.memory = mmap.mmap(-1, (MAX_PROCESSES + MAX_THREADS) * cls.size)

    @classmethod
    def add(cls, slot: int, entry: bytes) -> bool:
        assert cls.memory is not None
        length, since = cls.head.unpack_from(cls.memory, slot * cls.size)
        if length + len(entry) > RESULTS_BYTES:
            return False
        begin = slot * cls.size + cls.head.size + length
        cls.memory[begin : begin + len(entry)] = entry
        cls.head.pack_into(cls.memory, slot * cls.size, length + len(entry), since if length else time.monotonic())
        return True

    @classmethod
    def since(cls, slot: int) -> float | None:
        assert cls.memory is not None
        length, since = cls.head.unpack_from(cls.memory, slot * cls.size)
        return since if length else None

    @classmethod
    def read(cls, slot: int) -> bytes:
        assert cls.memory is not None
        length, _ = cls.head.unpack_from(cls.memory, slot * cls.size)
        begin = slot * cls.size + cls.head.size
        return cls.memory[begin : begin + length]

    @classmethod
    def clear(cls, slot: int) -> None:
        assert cls.memory is not None
        cls.head.pack_into(cls.memory, slot * cls.size, 0, 0.0)


def open_tables() -> None:
    """Before the worker's processes are forked."""
    _running.open()
    _recalled.open()
    _Results.open()


# --- In the process that runs it --------------------------------------------------------------------------------------


class BatchSlot:
    """The slot of this process, or of this thread, while it runs batches."""

    def __init__(self, slot: int) -> None:
        self._slot = slot
        self._token = 0

    def begin_batch(self, token: int) -> None:
        self._token = token
        self.forget_results()  # of a process that has died

    def begin(self, call: int, expected_seconds: float) -> bool:
        """Say that this call begins; False if it must not, because the batch has been recalled.

        The main process recalls first and then looks which call runs. So either it sees this one, or this sees that.
        """
        now = time.monotonic()
        _running.write(self._slot, os.getpid(), self._token, call, now, now + expected_seconds + SURPRISE_SECONDS)
        return not self.is_recalled

    def end(self) -> None:
        """Say that no call runs."""
        _running.write(self._slot, os.getpid(), self._token, 0, 0.0, 0.0)

    @property
    def is_recalled(self) -> bool:
        return _recalled.read(self._slot) == (self._token,)

    def add_result(self, result: Result) -> bool:
        """Keep a result that is to be written with others; False if there is no room for it."""
        return _Results.add(self._slot, json.dumps(result, default=str).encode() + b"\n")

    def forget_results(self) -> None:
        """They are written."""
        _Results.clear(self._slot)

    def close(self) -> None:
        _running.write(self._slot, 0, 0, 0, 0.0, 0.0)


@contextmanager
def batch_slot() -> Iterator[BatchSlot | None]:
    """A slot for the block; None where there are none: outside of workers, or if all are taken."""
    slot = take_slot() if _running.is_open else None
    if slot is None:
        yield None
        return
    found = BatchSlot(slot)
    try:
        yield found
    except BaseException as error:
        if is_main_process() or isinstance(error, Exception):  # otherwise the process ends: it is to be seen what ran
            found.close()
        raise
    else:
        found.close()
    finally:
        leave_slot(slot)


# --- In the worker's main process -------------------------------------------------------------------------------------


def running_batches() -> Iterator[tuple[int, RunningBatch]]:
    """What the processes and threads of this worker run now, by their slots."""
    for slot, values in _running.used():
        yield slot, RunningBatch._make(values)


def end_of_process(pid: int) -> tuple[int | None, list[Result]]:
    """Of a process of this worker that is dead: the id of the call that it ran, None if that is not known, and the
    results that it had not written. Its slot is free afterwards.
    """
    for slot, batch in running_batches():
        if batch.pid == pid:
            results = unwritten_results(slot)
            _running.write(slot, 0, 0, 0, 0.0, 0.0)
            return batch.call or None, results
    return None, []


def recall(slot: int, token: int) -> RunningBatch:
    """Let no more calls of this batch begin; what the slot's process runs."""
    _recalled.write(slot, token)
    return RunningBatch._make(_running.read(slot))


def unwritten_since(slot: int) -> float | None:
    """When the first came of the results that a process has not written yet; None if there are none."""
    return _Results.since(slot)


def unwritten_results(slot: int) -> list[Result]:
    """The results that a process has not written yet; none if it is just writing."""
    try:
        return [
            (task_id, token, changes) for task_id, token, changes in map(json.loads, _Results.read(slot).splitlines())
        ]
    except (ValueError, TypeError):
        return []
