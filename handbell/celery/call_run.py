"""A run of a call by a worker's process, and what the task has asked for that happens when the run has ended.

So it happens whatever becomes of the transactions that the task itself is in, and together with the result.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from handbell.plain.message import Message


@dataclass
class CallRun:
    """`has_begun`: the task's function is running. `retry` is the message of `self.retry()`, `replacement` the
    signature of `self.replace()`, and `followers` call what is linked or chained to the task.
    """

    has_begun: bool = False
    retry: Message | None = None
    replacement: Any = None
    followers: list[Callable[[], object]] = field(default_factory=list)
    _children: int | None = None

    def truncate_children(self, children: list[Any]) -> None:
        """Leave only those of the task's `children` that were there before a follower was called."""
        if self._children is None:
            self._children = len(children)
        del children[self._children :]


def call_run(request: Any) -> CallRun | None:
    """The run that this request belongs to; None if no worker runs it."""
    run = getattr(request, "call_run", None)
    return run if isinstance(run, CallRun) else None
