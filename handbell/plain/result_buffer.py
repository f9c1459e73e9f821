"""Several results in one commit, for calls that were claimed together."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from handbell.plain import sql
from handbell.plain.db_retry import store_or_exit

MAX_BUFFERED_SECONDS, MAX_BUFFERED_RESULTS = 0.05, 200


class _ThreadBuffer(threading.local):
    """What this thread has buffered; None while it writes each result at once."""

    results: list[tuple[str, Mapping[str, Any]]] | None = None
    since = 0.0


_buffer = _ThreadBuffer()


@contextmanager
def buffered_results() -> Iterator[None]:
    """Within the block, results are written together, each within a moment of the end of its task."""
    _buffer.results = []
    try:
        yield
    finally:
        _flush()
        _buffer.results = None


def buffer_result(task_id: str, changes: Mapping[str, Any]) -> bool:
    """Take a result to be written with others; False if this one is to be written at once."""
    if _buffer.results is None:
        return False
    if not _buffer.results:
        _buffer.since = time.monotonic()
    _buffer.results.append((task_id, changes))
    if len(_buffer.results) >= MAX_BUFFERED_RESULTS or time.monotonic() - _buffer.since > MAX_BUFFERED_SECONDS:
        _flush()
    return True


def _flush() -> None:
    results, _buffer.results = _buffer.results, []
    if results:
        store_or_exit(lambda: sql.finish_calls(results), f"The results of {len(results)} tasks")
