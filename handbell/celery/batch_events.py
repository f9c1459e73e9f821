"""Events about calls that are claimed together: the process that runs them sends them, with several in a message. The
worker's main process, which does so for what it sends to its processes, does not know these calls.
"""

import logging
import os
import threading
import time
from contextlib import suppress
from typing import Any, ClassVar

from celery import current_app, states
from kombu.utils.encoding import safe_repr, safe_str

from handbell.common.broker import ERRORS
from handbell.common.shared import SharedNumber

FLUSH_SECONDS = 0.1
logger = logging.getLogger(__name__)


class BatchEvents:
    """Sends what Celery's worker sends about a task, while its main process says that it does."""

    enabled = SharedNumber()  # 1 while the worker sends events
    _lock = threading.Lock()
    _pid: ClassVar[int] = 0
    _dispatcher: ClassVar[Any] = None

    @classmethod
    def started(cls, request: Any, hostname: str) -> None:
        """It has been received, and begins."""
        names = ("root_id", "parent_id", "retries", "eta", "expires")
        fields = {name: getattr(request, name, None) for name in names}
        arguments = {"args": request.argsrepr or "", "kwargs": request.kwargsrepr or ""}
        cls._send(hostname, "task-received", uuid=request.id, name=request.task, **arguments, **fields)
        cls._send(hostname, "task-started", uuid=request.id)

    @classmethod
    def ended(cls, request: Any, hostname: str, outcome: Any) -> None:
        """`outcome` is what `trace_task` returned."""
        if outcome.info is None:
            cls._send(hostname, "task-succeeded", uuid=request.id, result=outcome.retstr or "", runtime=outcome.runtime)
        elif outcome.info.state in {states.FAILURE, states.RETRY}:
            kind = "task-failed" if outcome.info.state == states.FAILURE else "task-retried"
            error = outcome.retval  # an ExceptionInfo, or nothing
            exception = safe_repr(getattr(error, "exception", outcome.info.retval))
            traceback = safe_str(getattr(error, "traceback", ""))
            cls._send(hostname, kind, uuid=request.id, exception=exception, traceback=traceback)

    @classmethod
    def _flush(cls) -> None:
        """In a thread, since the task that runs may take long: send what has come together."""
        while True:
            time.sleep(FLUSH_SECONDS)
            with cls._lock, suppress(*ERRORS):
                if cls._dispatcher is not None:
                    cls._dispatcher.flush()
                    if cls._dispatcher._outbound_buffer:  # noqa: SLF001  (the broker was away: so are they)
                        cls._dispatcher = None

    @classmethod
    def _send(cls, hostname: str, kind: str, **fields: Any) -> None:
        with cls._lock:
            if cls._pid != os.getpid():  # the first in this process
                cls._dispatcher, cls._pid = None, os.getpid()
                threading.Thread(target=cls._flush, name="events", daemon=True).start()
            try:
                if cls._dispatcher is None:
                    connection = current_app.connection_for_write()
                    cls._dispatcher = current_app.events.Dispatcher(connection, hostname, buffer_group=["task"])
                cls._dispatcher.send(kind, **fields)
            except ERRORS as error:
                cls._dispatcher = None
                logger.warning("Events were not sent: %s.", error)
