"""A run of a call by a worker's process, and what the task has asked for that happens when the run has ended.

So it happens whatever becomes of the transactions that the task itself is in, and together with the result.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from handbell.plain.message import Message


@dataclass
class CallRun:
    """`claim_token` is that of the claim, if the ledger has the call; `started_at` is when it began, if the ledger does
    not say. `has_begun`: the task's function is running.
    `retry` is the message of `self.retry()`, `replacement` the signature of `self.replace()`, and `followers` call what
    is linked or chained to the task.
    """

    claim_token: int | None = None
    started_at: datetime | None = None
    has_begun: bool = False
    retry: Message | None = None
    replacement: Any = None
    followers: list[Callable[[], object]] = field(default_factory=list)
    _children: int | None = None

    @property
    def is_shared(self) -> bool:
        """Whether the call was claimed with others, and has no message of its own."""
        return self.started_at is not None

    def truncate_children(self, children: list[Any]) -> None:
        """Leave only those of the task's `children` that were there before a follower was called."""
        if self._children is None:
            self._children = len(children)
        del children[self._children :]


def claim_token(request: Any) -> int | None:
    """The token under which this request's call was claimed, if it was."""
    run = call_run(request)
    return run.claim_token if run else None


def call_run(request: Any) -> CallRun | None:
    """The run that this request belongs to; None if no worker runs it."""
    run = getattr(request, "call_run", None)
    return run if isinstance(run, CallRun) else None
