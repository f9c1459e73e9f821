"""How the processes of a worker learn that it is told to stop: a pipe from the worker's main process to its children.

The main process writes one byte, which nobody takes out: from then on the pipe is readable in all children.
"""

import os
import select


class _Pipe:
    read: int | None = None
    write: int | None = None


def open_pipe() -> None:
    """Open the pipe: in the worker's main process, before the pool's processes are forked."""
    _Pipe.read, _Pipe.write = os.pipe()


def announce_stop() -> None:
    """Tell the children: in the worker's main process."""
    if _Pipe.write is not None:
        os.write(_Pipe.write, b"x")


def stop_descriptors() -> list[int]:
    """What becomes readable when the worker is told to stop: one file descriptor, or none outside a worker."""
    return [] if _Pipe.read is None else [_Pipe.read]


def is_stop_announced() -> bool:
    """Whether the worker was told to stop."""
    return any(select.select(stop_descriptors(), [], [], 0)[0])
