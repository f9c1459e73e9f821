"""Memory that a worker's processes share with its main process: each has a slot, in which it says what it does."""

import mmap
import os
import struct
import threading
from collections.abc import Iterator
from typing import Any

from billiard import current_process

MAX_PROCESSES = 512  # of a worker's pool; any more have no slots
MAX_THREADS = 512  # of its main process


class _ThreadSlots:
    """Which slots of the main process's threads are taken."""

    lock = threading.Lock()
    taken: set[int] = set()


class SlotTable:
    """Slots of this layout, as `struct` has it. The first value in a slot is the pid of whoever uses it, or 0."""

    def __init__(self, layout: str) -> None:
        self._layout = struct.Struct(layout)
        self._memory: mmap.mmap | None = None

    def open(self) -> None:
        """Before the worker's processes are forked. Where it is not called, there are no slots."""
        self._memory = mmap.mmap(-1, (MAX_PROCESSES + MAX_THREADS) * self._layout.size)

    @property
    def is_open(self) -> bool:
        return self._memory is not None

    def write(self, slot: int, *values: Any) -> None:
        assert self._memory is not None
        self._layout.pack_into(self._memory, slot * self._layout.size, *values)

    def read(self, slot: int) -> tuple[Any, ...]:
        assert self._memory is not None
        return self._layout.unpack_from(self._memory, slot * self._layout.size)

    def used(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Each slot that somebody uses, with what is in it. One that changes meanwhile may be seen half-written."""
        for slot, values in enumerate(self._layout.iter_unpack(bytes(self._memory or b""))):
            if values[0]:
                yield slot, values


def process_slot() -> int | None:
    """The slot of this process, which is one of a worker's pool; None if it is not, or there are too many."""
    index = getattr(current_process(), "index", MAX_PROCESSES)
    return int(index) if index < MAX_PROCESSES else None


def take_slot() -> int | None:
    """The slot of this process, or one of the main process's for this thread, until `leave_slot`; None if all are
    taken.
    """
    if (slot := process_slot()) is not None:
        return slot
    with _ThreadSlots.lock:
        free = (it for it in range(MAX_PROCESSES, MAX_PROCESSES + MAX_THREADS) if it not in _ThreadSlots.taken)
        if (slot := next(free, None)) is not None:
            _ThreadSlots.taken.add(slot)
    return slot


def leave_slot(slot: int | None) -> None:
    with _ThreadSlots.lock:
        _ThreadSlots.taken.discard(-1 if slot is None else slot)


def _forget_threads() -> None:
    _ThreadSlots.lock, _ThreadSlots.taken = threading.Lock(), set()


os.register_at_fork(after_in_child=_forget_threads)
