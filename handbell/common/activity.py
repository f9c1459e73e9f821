"""Whether a process of this worker runs a task, in memory that its main process reads.

Each process counts how often it has changed between running something and running nothing: the number is odd while it
runs something.
"""

import os
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from celery.signals import task_postrun, task_prerun

from handbell.common.slots import MAX_PROCESSES, SlotTable, process_slot

_table = SlotTable("=qq")  # the pid, and the number of changes


class _ThisProcess:
    lock = threading.Lock()  # of its threads
    pid: ClassVar[int] = 0  # to whom the following belongs
    running: ClassVar[int] = 0
    changes: ClassVar[int] = 0


def open_table() -> None:
    """Before the worker's processes are forked."""
    _table.open()


def changes_by_process() -> Mapping[int, int]:
    """How often each process has changed, by pid."""
    return dict(values for _, values in _table.used())


@task_prerun.connect
def _begin(**kwargs: Any) -> None:
    _count(1)


@task_postrun.connect
def _end(**kwargs: Any) -> None:
    _count(-1)


def _count(step: int) -> None:
    """Tasks may call others eagerly, and threads run many at a time."""
    if not _table.is_open:
        return
    this = _ThisProcess
    if this.pid != os.getpid():  # just forked: the lock may have been held then
        this.lock, this.pid, this.running, this.changes = threading.Lock(), os.getpid(), 0, 0
    with this.lock:
        was_running = this.running > 0
        this.running = max(0, this.running + step)
        if was_running != (this.running > 0):
            this.changes += 1
            slot = process_slot()
            _table.write(MAX_PROCESSES if slot is None else slot, this.pid, this.changes)
