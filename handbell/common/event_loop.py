"""Running `async def` functions from synchronous code, on an event loop that is kept from one to the next.

Each thread that runs them has a loop of its own, in a thread beside it. What they call with `sync_to_async`, as
Django's asynchronous ORM does, runs in the thread that waits for them, with its database connections and transaction.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, async_to_sync

T = TypeVar("T")
logger = logging.getLogger(__name__)


class _Loop(threading.local):
    """The loop of this thread, and the process in which it runs: a fork has a copy of the loop, but not its thread."""

    loop: asyncio.AbstractEventLoop | None = None
    pid = 0


_own = _Loop()


class CoroutineRun:
    """One run of a coroutine, which another thread or a signal handler may cancel."""

    def __init__(self) -> None:
        self.was_cancelled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `call()` returns once it is awaited.

        Raises:
            asyncio.CancelledError: it was cancelled.
        """
        self._loop = loop = _running_loop()
        local: Any = SyncToAsync.threadlocal
        outer = getattr(local, "main_event_loop", None)
        is_inside_another = outer is not None and outer.is_running()
        if not is_inside_another:  # this is where `async_to_sync` looks for a loop before it makes a new one
            local.main_event_loop, local.main_event_loop_pid = loop, os.getpid()
        try:
            # In a copy of the context, so that nothing of it is seen by the next task of this thread.
            return copy_context().run(async_to_sync(self._note_task), call)
        finally:
            if not is_inside_another:
                local.main_event_loop = None

    async def _note_task(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await call()

    def cancel(self) -> None:
        """Raise `asyncio.CancelledError` where the coroutine waits. What it runs with `sync_to_async` ends first."""
        if self._loop is not None and self._task is not None and not self._task.done():
            self.was_cancelled = True
            self._loop.call_soon_threadsafe(self._task.cancel)


def run_coroutine(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `call()` returns once it is awaited."""
    return CoroutineRun().run(call)


def _running_loop() -> asyncio.AbstractEventLoop:
    if _own.loop is None or _own.pid != os.getpid():
        _own.loop, _own.pid = asyncio.new_event_loop(), os.getpid()
        threading.Thread(target=_run_for_ever, args=(_own.loop,), name="event-loop", daemon=True).start()
    return _own.loop


def _run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    """Go on when the code of a task has stopped the loop, with `loop.stop()` or with `sys.exit()` in a subtask."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            logger.warning("A task has tried to end the event loop of its process.", exc_info=True)
