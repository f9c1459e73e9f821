"""What a worker's main process does about a task whose process is gone."""

from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import Terminated
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker import state
from celery.worker.request import Request

from handbell.celery.call_run import CallRun
from handbell.celery.task import is_recorded
from handbell.common.claims import claim_owner
from handbell.common.write_backlog import write_backlog
from handbell.models import Call
from handbell.plain import crash_recovery
from handbell.plain.batching import RUN_BATCH

DEATHS = (WorkerLostError, SystemExit, KeyboardInterrupt)


class PlainRequest(Request):
    """Celery's request, with two failure paths of its own: if its process dies, the call goes back to the ledger; at a
    time limit, Celery's failure path runs once.
    """

    _already_cancelled: bool
    _already_revoked: bool
    _context: Any

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Celery's own failure path, in the backlog's thread: nothing waits for the database in this one."""
        if soft:
            super().on_timeout(soft, timeout)
        else:
            write_backlog.add(lambda: self._fail_at_time_limit(timeout))

    def _fail_at_time_limit(self, timeout: float) -> None:
        """Unless its process had not claimed the call yet, or somebody else has: then it runs, or will."""
        if is_recorded(self.task, self.ignore_result):
            claimed = Call.objects.filter(task_id=self.id, claimed_by=claim_owner(int(self.worker_pid or 0)))
            token = claimed.values_list("claim_token", flat=True).first()
            if token is None:
                return
            self._context.call_run = CallRun(token, has_begun=True)
        super().on_timeout(soft=False, timeout=timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        is_over = isinstance(error, DEATHS)
        if self.name == RUN_BATCH:  # whatever became of its own message
            is_over = is_over or isinstance(error, TimeLimitExceeded | Terminated)
        if is_over and self._is_in_ledger():
            state.task_ready(self)
            self.acknowledge()
            crash_recovery.recover_from_death(self, error)
        elif isinstance(error, TimeLimitExceeded):
            state.task_ready(self)
            self.acknowledge()
        else:
            super().on_failure(exc_info, send_failed_event, return_ok)

    def _is_in_ledger(self) -> bool:
        if self.name == RUN_BATCH:
            return True
        ended = self._already_cancelled or self._already_revoked or state.should_terminate
        return not ended and is_recorded(self.task, self.ignore_result)
