"""Several results in one commit, for calls that were claimed together."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from handbell.common.db_retry import write_or_exit
from handbell.plain import sql
from handbell.plain.batch_slots import BatchSlot

#: How long a result waits for others. Where the call after it takes longer than was expected, the worker's main process
#: writes it: see `batch_watch`.
MAX_BUFFERED_SECONDS, MAX_BUFFERED_RESULTS = 0.02, 200


class _ThreadBuffer(threading.local):
    """What this thread has buffered; None while it writes each result at once."""

    results: list[tuple[str, int, Mapping[str, Any]]] | None = None
    slot: BatchSlot | None = None
    since = 0.0


_buffer = _ThreadBuffer()


@contextmanager
def buffered_results(slot: BatchSlot) -> Iterator[None]:
    """Within the block, results are written together; until then they are in this slot, too."""
    _buffer.results, _buffer.slot = [], slot
    try:
        yield
    finally:
        write_buffered_results()
        _buffer.results = _buffer.slot = None


def buffer_result(task_id: str, token: int | None, changes: Mapping[str, Any]) -> bool:
    """Take a result to be written with others; False if this one is to be written at once."""
    if _buffer.results is None or _buffer.slot is None or token is None:
        return False
    if not _buffer.slot.add_result((task_id, token, dict(changes))):
        return False
    if not _buffer.results:
        _buffer.since = time.monotonic()
    _buffer.results.append((task_id, token, changes))
    if len(_buffer.results) >= MAX_BUFFERED_RESULTS or time.monotonic() - _buffer.since > MAX_BUFFERED_SECONDS:
        write_buffered_results()
    return True


def write_buffered_results() -> None:
    results = _buffer.results
    if results:
        write_or_exit(lambda: sql.finish_calls(results), f"The results of {len(results)} tasks")
        _buffer.results = []
        if _buffer.slot is not None:
            _buffer.slot.forget_results()
