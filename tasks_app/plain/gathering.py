"""Several results in one commit, for tasks that were claimed together."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tasks_app.plain import ledger
from tasks_app.plain.insisting import insist_or_end

LONGEST_SECONDS, MOST = 0.05, 200


class _Here(threading.local):
    """What this thread has gathered, if it gathers."""

    results: list[tuple[str, Mapping[str, Any]]] | None = None
    since = 0.0


_here = _Here()


@contextmanager
def gathering() -> Iterator[None]:
    """Within the block, results are written together, each within a moment of the end of its task."""
    _here.results = []
    try:
        yield
    finally:
        _flush()
        _here.results = None


def gather(task_id: str, changes: Mapping[str, Any]) -> bool:
    """Take a result to be written with others; False if this one is to be written at once."""
    if _here.results is None:
        return False
    if not _here.results:
        _here.since = time.monotonic()
    _here.results.append((task_id, changes))
    if len(_here.results) >= MOST or time.monotonic() - _here.since > LONGEST_SECONDS:
        _flush()
    return True


def _flush() -> None:
    results, _here.results = _here.results, []
    if results:
        insist_or_end(lambda: ledger.finish_many(results), f"The results of {len(results)} tasks")
