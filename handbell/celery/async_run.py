"""Tasks that are `async def` functions, which Celery by itself does not run (https://github.com/celery/celery/issues/6552).

The worker waits for the coroutine as for any function. At a soft time limit it is cancelled.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.exceptions import SoftTimeLimitExceeded

from handbell.common.event_loop import CoroutineRun
from handbell.common.time_limits import at_soft_limit
from handbell.errors import HandbellError


def synchronous(function: Callable[..., Coroutine[Any, Any, Any]], *, bound: bool) -> Callable[..., Any]:
    """A method `run` of a task that runs the `async def` function to its end."""

    @wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = (self, *args) if bound else args
        if is_in_coroutine():  # of the same task, or of a class that is derived from this one
            return function(*given, **kwargs)
        return run_to_the_end(self, lambda: function(*given, **kwargs))

    return run


def is_in_coroutine() -> bool:
    """Whether this is called by code that runs on an event loop, and so can await."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_to_the_end(task: Any, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What `call()` returns once it is awaited, for a task that runs now.

    Raises:
        celery.exceptions.SoftTimeLimitExceeded: it was cancelled at the task's soft time limit.
    """
    request = task.request_stack.top

    async def with_request() -> Any:
        """Celery keeps what runs now for each thread, and this is another one: that of the loop."""
        _task_stack.push(task)
        task.request_stack.push(request)
        try:
            return await call()
        finally:
            task.request_stack.pop()
            _task_stack.pop()

    run = CoroutineRun()
    try:
        with _soft_time_limit(run):
            return run.run(with_request)
    except asyncio.CancelledError as error:
        if run.was_cancelled:
            raise SoftTimeLimitExceeded from error
        raise HandbellError(f"{task.name} was cancelled by its own code.") from error


@contextmanager
def _soft_time_limit(run: CoroutineRun) -> Iterator[None]:
    """Where Celery raises `SoftTimeLimitExceeded` in this thread, which only waits, cancel the coroutine instead."""
    with at_soft_limit(run.cancel):
        if SIG_SOFT_TIMEOUT is None or signal.getsignal(SIG_SOFT_TIMEOUT) is not soft_timeout_sighandler:
            yield
            return
        signal.signal(SIG_SOFT_TIMEOUT, lambda *_: run.cancel())
        try:
            yield
        finally:
            signal.signal(SIG_SOFT_TIMEOUT, soft_timeout_sighandler)
