"""Running the items of a chunk, each failing alone, until all are done, time is up, or the job is not to go on."""

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

from django.db import connections

from tasks_app.errors import NotJson
from tasks_app.models.job_handle import encode
from tasks_app.parallel.references import find

MOST_TRACEBACK = 10_000
MOST_ERROR = 2_000
_current: ContextVar[int | None] = ContextVar("job", default=None)


class Failed(NamedTuple):
    """An item that failed: its offset in what was to be run, the error in a line, and the traceback."""

    offset: int
    error: str
    traceback: str


@dataclass
class Outcome:
    """What came of the first `len(results)` items. `results` holds None for each that failed."""

    results: list[Any] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    seconds: float = 0.0


class Stop:
    """When to begin no further item: at `at` by the performance counter, or once `now` is set."""

    def __init__(self, seconds: float | None = None) -> None:
        self.at = float("inf") if seconds is None else time.perf_counter() + seconds
        self.now = threading.Event()

    def __call__(self) -> bool:
        return time.perf_counter() > self.at or self.now.is_set()


def compose(stages: Sequence[Sequence[Any]]) -> Callable[[Any], Any]:
    """One function that takes an item through all stages.

    Raises:
        UnknownTask: this deployment does not have one of the tasks.
    """
    calls = [(find(name), tuple(args), dict(kwargs)) for name, args, kwargs in stages]
    if len(calls) == 1 and not calls[0][1] and not calls[0][2]:
        return calls[0][0]

    def through(item: Any) -> Any:
        for run, args, kwargs in calls:
            item = run(item, *args, **kwargs)
        return item

    return through


def run_here(call: Callable[[Any], Any], items: Sequence[Any], stop: Callable[[], bool]) -> Outcome:
    """One after the other, in this thread."""
    outcome = Outcome()
    results, failed = outcome.results, outcome.failed
    for item in items:
        try:
            results.append(call(item))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it is, it is the item's own)
            failed.append(describe(len(results), error))
            results.append(None)
        if stop():
            break
    return outcome


def run_in_threads(call: Callable[[Any], Any], items: Sequence[Any], stop: Callable[[], bool], threads: int) -> Outcome:
    """Several at a time; the results are in the order of the items all the same."""
    results: list[Any] = [None] * len(items)
    failed: list[Failed] = []
    numbers, taken = count(), set[int]()  # next() on a count is atomic

    def work() -> None:
        try:
            while not (taken and stop()) and (number := next(numbers)) < len(items):
                taken.add(number)
                try:
                    results[number] = call(items[number])
                except (Exception, SystemExit) as error:  # noqa: BLE001
                    failed.append(describe(number, error))
        finally:
            connections.close_all()  # this thread's own

    workers = [threading.Thread(target=copy_context().run, args=(work,)) for _ in range(min(threads, len(items)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Outcome(results[: len(taken)], sorted(failed))


def describe(offset: int, error: BaseException) -> Failed:
    trace = TracebackException.from_exception(error)  # as text, it is the error's own; also if that cannot be had
    line = f"{type(error).__name__}: {trace}"[:MOST_ERROR]
    return Failed(offset, _storable(line), _storable("".join(trace.format())[-MOST_TRACEBACK:]))


def _storable(text: str) -> str:
    """PostgreSQL keeps neither NUL nor half a surrogate pair, and an error may quote anything."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def as_json(outcome: Outcome) -> str:
    """The results as a JSON array. A result that JSON cannot hold makes its item fail."""
    try:
        return encode(outcome.results)
    except Exception:  # noqa: BLE001, S110  (looked for below)
        pass
    texts, failed = [], {it.offset for it in outcome.failed}
    for offset, result in enumerate(outcome.results):
        try:
            texts.append(as_item(result))
        except NotJson as error:
            texts.append("null")
            if offset not in failed:
                outcome.failed.append(Failed(offset, f"NotJson: {error}", ""))
    outcome.failed.sort()
    text = f"[{','.join(texts)}]"
    outcome.results = json.loads(text)
    return text


def as_item(result: Any) -> str:
    """A single result as JSON.

    Raises:
        NotJson: JSON cannot hold it.
    """
    try:
        return encode(result)
    except Exception as problem:
        raise NotJson(f"the result is a {type(result).__name__}, which JSON cannot hold: {problem}") from problem


@contextmanager
def inside(job_id: int) -> Any:
    """Jobs that are started in here are children of this one."""
    token = _current.set(job_id)
    try:
        yield
    finally:
        _current.reset(token)


def current_job_id() -> int | None:
    return _current.get()
