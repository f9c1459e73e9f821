"""What a worker's main process does for calls that were claimed together, of which one takes longer than was expected.

Those that have not begun are given back, so that no quick call waits for a slow one while another process is idle. The
results of those that have ended are written. That a call runs is written once it has run for a moment: quick ones never
say so.
"""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

from celery import states as celery_states
from django.db.models import Exists, OuterRef
from django.utils import timezone
from django_celery_results.models import TaskResult

from handbell.common.attempt import attempt
from handbell.models import Call
from handbell.plain import sql
from handbell.plain.batch_slots import RunningBatch, recall, running_batches, unwritten_results, unwritten_since
from handbell.plain.batching import batch_doorbell, release_after
from handbell.plain.message import Message

LOOK_SECONDS = 0.03  # between two looks
MAX_UNWRITTEN_SECONDS = 0.05  # after which a process that could would have written its results
PAUSE_SECONDS = 1.0  # after a look of which not all could be written
SHOWN_SECONDS = 0.1  # for which a call runs before its state says so
_shown_calls: dict[tuple[int, int], dict[str, Any]] = {}  # by call and token


def start_batch_watch(hostname: str, before_each: Callable[[], None]) -> None:
    """Start the thread that looks. It runs until the process ends."""
    threading.Thread(target=_run, args=(BatchWatch(hostname), before_each), name="batch-watch", daemon=True).start()


def _run(watch: "BatchWatch", before_each: Callable[[], None]) -> None:
    while True:
        before_each()
        time.sleep(LOOK_SECONDS if watch.look() else PAUSE_SECONDS)


def shown_calls() -> dict[tuple[int, int], dict[str, Any]]:
    """The calls that run, and whose state says so: what Celery says of a request, by their ids and tokens."""
    return dict(_shown_calls)


def _info(call: Call, batch: RunningBatch, hostname: str, time_start: float) -> dict[str, Any]:
    request = Message.from_json(call.message).request()
    return {
        **{name: request[name] for name in ("id", "args", "kwargs", "delivery_info")},
        "name": request["task"],
        "type": request["task"],
        "hostname": hostname,
        "time_start": time_start,
        "acknowledged": True,
        "worker_pid": batch.pid,
    }


class BatchWatch:
    """Looks at what the processes of this worker run."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._recalled: set[int] = set()  # tokens
        self._shown: set[tuple[int, int]] = set()  # calls whose state says that they run, with their tokens
        self._written: dict[int, float] = {}  # since when there were the results in a slot that are written

    def look(self) -> bool:
        """Look once; whether all could be written. What could not is tried again at the next look."""
        now, batches = time.monotonic(), dict(running_batches())
        running = {(batch.call, batch.token) for batch in batches.values()}
        self._recalled &= {token for _, token in running}
        self._shown &= running
        for ended in _shown_calls.keys() - running:
            del _shown_calls[ended]
        writes = [write for slot, batch in batches.items() for write in self._due(slot, batch, now)]
        outcomes = [attempt(write) for write in writes]
        return all(outcomes)

    def _due(self, slot: int, batch: RunningBatch, now: float) -> Iterator[Callable[[], None]]:
        if batch.call and now > batch.overdue and batch.token not in self._recalled:
            yield partial(self._recall, slot, batch)
        if batch.call and now > batch.started + SHOWN_SECONDS and (batch.call, batch.token) not in self._shown:
            yield partial(self._show, batch, now)
        since = unwritten_since(slot)
        if since is not None and now > since + MAX_UNWRITTEN_SECONDS and self._written.get(slot) != since:
            yield partial(self._write_results, slot, since)

    def _recall(self, slot: int, batch: RunningBatch) -> None:
        running = recall(slot, batch.token)
        if running.token == batch.token and running.call:
            for queue in release_after(batch.token, running.call):
                batch_doorbell(queue).ring()
        self._recalled.add(batch.token)

    def _show(self, batch: RunningBatch, now: float) -> None:
        """As a claim does that is not shared."""
        claimed = Call.objects.filter(task_id=OuterRef("task_id"), pk=batch.call, claim_token=batch.token)
        running = TaskResult.objects.filter(Exists(claimed), status=celery_states.PENDING)
        started = timezone.now() - timedelta(seconds=now - batch.started)
        running.update(status=celery_states.STARTED, worker=self._hostname, date_started=started, date_done=started)
        call = Call.objects.filter(pk=batch.call, claim_token=batch.token).first()
        self._shown.add((batch.call, batch.token))
        if call is not None:
            _shown_calls[batch.call, batch.token] = _info(call, batch, self._hostname, started.timestamp())

    def _write_results(self, slot: int, since: float) -> None:
        if results := unwritten_results(slot):
            sql.finish_calls(results)
            self._written[slot] = since
