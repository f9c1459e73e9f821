"""Running the items of a chunk in this process, each failing alone, until all are done or it is time to stop."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from itertools import count
from traceback import TracebackException
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.db import connections

from handbell.common.codec import encode, storable
from handbell.common.event_loop import run_coroutine
from handbell.common.time_limits import is_told_to_stop
from handbell.errors import NotJson
from handbell.parallel.import_paths import coroutine_function, load_function

MAX_ITEM_TRACEBACK_CHARACTERS = 10_000
MAX_ITEM_ERROR_CHARACTERS = 2_000
_current_job_id: ContextVar[int | None] = ContextVar("job", default=None)


class FailedItem(NamedTuple):
    """An item that failed: its offset in what was to be run, the error in a line, and the traceback."""

    offset: int
    error: str
    traceback: str


@dataclass
class ChunkOutcome:
    """The results of the first `len(results)` items, with None for each that failed, and the seconds that they took."""

    results: list[Any] = field(default_factory=list)
    failed: list[FailedItem] = field(default_factory=list)
    seconds: float = 0.0


class StopCondition:
    """Says when to begin no further item: `seconds` from now, or as soon as somebody sets `now`."""

    def __init__(self, seconds: float | None = None) -> None:
        self.deadline = float("inf") if seconds is None else time.perf_counter() + seconds
        self.now = threading.Event()

    def seconds_left(self) -> float:
        return self.deadline - time.perf_counter()

    def __call__(self) -> bool:
        return time.perf_counter() > self.deadline or self.now.is_set()


def compose_stages(stages: Sequence[Sequence[Any]]) -> Callable[[Any], Any]:
    """One function that takes an item through all stages.

    Raises:
        UnknownTask: this deployment does not have one of the tasks.
    """
    calls = [(load_function(name), tuple(args), dict(kwargs)) for name, args, kwargs in stages]
    if len(calls) == 1 and not calls[0][1] and not calls[0][2]:
        return calls[0][0]

    def run_stages(item: Any) -> Any:
        for run, args, kwargs in calls:
            item = run(item, *args, **kwargs)
        return item

    return run_stages


def compose_async_stages(stages: Sequence[Sequence[Any]]) -> Callable[[Any], Any] | None:
    """The same as an `async def` function, if one of the stages is. Those that are none run one at a time, in the
    thread that waits for the loop.
    """
    functions = [coroutine_function(name) for name, _, _ in stages]
    if not any(functions):
        return None
    calls = [
        (function or sync_to_async(load_function(name)), tuple(args), dict(kwargs))
        for function, (name, args, kwargs) in zip(functions, stages, strict=True)
    ]

    async def run_stages(item: Any) -> Any:
        for run, args, kwargs in calls:
            item = await run(item, *args, **kwargs)
        return item

    return run_stages


def run_sequentially(call: Callable[[Any], Any], items: Sequence[Any], stop: Callable[[], bool]) -> ChunkOutcome:
    """Run the items one after the other, in this thread."""
    outcome = ChunkOutcome()
    results, failed = outcome.results, outcome.failed
    for item in items:
        try:
            results.append(call(item))
        except BaseException as error:  # (whatever it is, it is the item's own)
            if is_told_to_stop(error):
                raise
            failed.append(failed_item(len(results), error))
            results.append(None)
        if stop():
            break
    return outcome


def run_in_threads(
    call: Callable[[Any], Any], items: Sequence[Any], stop: Callable[[], bool], threads: int
) -> ChunkOutcome:
    """Run several items at a time, each in one of `threads` threads. The results are in the order of the items."""
    results: list[Any] = [None] * len(items)
    failed: list[FailedItem] = []
    numbers, begun = count(), set[int]()  # next() on a count is atomic

    def work() -> None:
        try:
            while not (begun and stop()) and (number := next(numbers)) < len(items):
                begun.add(number)
                try:
                    results[number] = call(items[number])
                except BaseException as error:  # noqa: BLE001  (whatever it is, it is the item's own)
                    failed.append(failed_item(number, error))
        finally:
            connections.close_all()  # this thread's own

    workers = [threading.Thread(target=copy_context().run, args=(work,)) for _ in range(min(threads, len(items)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return ChunkOutcome(results[: len(begun)], sorted(failed))


def run_on_loop(
    call: Callable[[Any], Any], items: Sequence[Any], stop: Callable[[], bool], at_a_time: int
) -> ChunkOutcome:
    """Run several items at a time, each of them a coroutine on one event loop, which `call` makes."""
    results: list[Any] = [None] * len(items)
    failed: list[FailedItem] = []
    numbers, begun = iter(range(len(items))), set[int]()

    async def work() -> None:
        for number in numbers:
            begun.add(number)
            try:
                results[number] = await call(items[number])
            except BaseException as error:  # noqa: BLE001  (whatever it is, it is the item's own)
                failed.append(failed_item(number, error))
            if stop():
                return

    async def work_together() -> None:
        await asyncio.gather(*(work() for _ in range(min(at_a_time, len(items)))))

    run_coroutine(work_together)
    return ChunkOutcome(results[: len(begun)], sorted(failed))


def failed_item(offset: int, error: BaseException) -> FailedItem:
    """What is kept of an item that raised this error."""
    trace = TracebackException.from_exception(error)  # its text is the error's, or says that the error has none
    line = f"{type(error).__name__}: {trace}"[:MAX_ITEM_ERROR_CHARACTERS]
    return FailedItem(offset, storable(line), storable("".join(trace.format())[-MAX_ITEM_TRACEBACK_CHARACTERS:]))


def encode_outcome(outcome: ChunkOutcome) -> str:
    """The results as a JSON array. If JSON cannot hold a result, its item is added to those that failed."""
    try:
        return encode(outcome.results)
    except Exception:  # noqa: BLE001, S110  (the loop below finds the item)
        pass
    texts, failed = [], {it.offset for it in outcome.failed}
    for offset, result in enumerate(outcome.results):
        try:
            texts.append(encode_item(result))
        except NotJson as error:
            texts.append("null")
            if offset not in failed:
                outcome.failed.append(FailedItem(offset, f"NotJson: {error}", ""))
    outcome.failed.sort()
    text = f"[{','.join(texts)}]"
    outcome.results = json.loads(text)
    return text


def encode_item(result: Any) -> str:
    """The result of one item as JSON.

    Raises:
        NotJson: JSON cannot hold it.
    """
    try:
        return encode(result)
    except Exception as problem:
        raise NotJson(f"the result is a {type(result).__name__}, which JSON cannot hold: {problem}") from problem


@contextmanager
def job_context(job_id: int) -> Any:
    """While the block runs, jobs that are started become children of this one."""
    token = _current_job_id.set(job_id)
    try:
        yield
    finally:
        _current_job_id.reset(token)


def current_job_id() -> int | None:
    """The job that the item which runs now belongs to, if there is one."""
    return _current_job_id.get()
