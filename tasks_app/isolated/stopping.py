"""How a supervisor learns that its worker is told to stop: a pipe between the worker and its pool's processes.

The worker's own process writes one byte, which nobody takes out: from then on the pipe is readable in all of them.
"""

import os
import select
from typing import Any

from celery.signals import worker_init, worker_shutting_down

from tasks_app.queues import ISOLATED


class _Pipe:
    read: int | None = None
    write: int | None = None


@worker_init.connect
def prepare(sender: Any = None, **kwargs: Any) -> None:
    """Before the pool's processes are forked."""
    if ISOLATED.name in sender.app.amqp.queues.consume_from:
        _Pipe.read, _Pipe.write = os.pipe()


@worker_shutting_down.connect
def announce(**kwargs: Any) -> None:
    if _Pipe.write is not None:
        os.write(_Pipe.write, b"x")


def descriptors() -> list[int]:
    """What becomes readable when the worker is told to stop."""
    return [] if _Pipe.read is None else [_Pipe.read]


def is_told() -> bool:
    return any(select.select(descriptors(), [], [], 0)[0])
