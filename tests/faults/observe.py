"""What runs in the system for the harness: what prepares it, tells which calls have ended, and what the database holds.

`main` is called in the project's shell, in a process of its own that is connected to the database directly, whatever is
done to the connections of the system.
"""

import json
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from django.db import connection
from django.db.models import Model
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks
from django_celery_results.models import TaskResult

from handbell import Job, Launch, Operation, states
from handbell.models import Call
from tasks_app.models import Counter, Entry
from tests.faults.history import Event, History, Tail, own_history

LOOK_SECONDS = 0.2
MAX_IDS = 500  # in one statement
ENDED = {"SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED", *states.FINISHED}
MIGRATED = ("handbell_", "django_celery_results_", "tasks_app_")
LEDGER_OF_KIND = {"serial": "operations", "external": "operations", "launch": "launches", "job": "jobs"}
LEDGERS: dict[str, tuple[type[Model], str]] = {
    "tasks": (TaskResult, "task_id"),
    "operations": (Operation, "task_id"),
    "launches": (Launch, "task_id"),
    "jobs": (Job, "name"),
}


def prepare() -> None:
    """Have beat call `tick` every second."""
    every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
    PeriodicTask.objects.create(name="tick", task="tests.faults.workload.tick", interval=every)


def restart_ticks() -> None:
    """Have `tick` be due again, whenever it has run last."""
    PeriodicTask.objects.filter(name="tick").update(last_run_at=None)
    PeriodicTasks.update_changed()


def add_columns() -> None:
    """Do what a migration of a new version does: each table of the engine, of its results and of the work gets one more
    column, which this version knows nothing of.
    """
    with connection.cursor() as cursor:
        tables = [name for name in connection.introspection.table_names(cursor) if name.startswith(MIGRATED)]
        count = len(connection.introspection.get_table_description(cursor, Counter._meta.db_table))
        for table_name in tables:
            cursor.execute(f"ALTER TABLE {table_name} ADD COLUMN new_{count} integer")


class Observer:
    """Writes "ended" for each call of the histories as soon as the database says so."""

    def __init__(self, history: History) -> None:
        self.history, self.tail = history, Tail(history.folder)
        self.waiting: dict[str, Event] = {}  # what has been called and has not ended, by call

    def look(self) -> None:
        for event in self.tail.events():
            if event["what"] == "invoked":
                self.waiting[event["call"]] = event
        for ledger in {ledger_of(event) for event in self.waiting.values()}:
            calls = [event for event in self.waiting.values() if ledger_of(event) == ledger]
            found = statuses(ledger, [id_ for event in calls for id_ in event["ids"]])
            for event in calls:
                known = [found.get(id_, "") for id_ in event["ids"]]
                if "FAILURE" in known or all(status in ENDED for status in known):
                    self.history.write("ended", call=event["call"], status=known[-1])
                    del self.waiting[event["call"]]


def ledger_of(invoked: Event) -> str:
    return invoked.get("ledger") or LEDGER_OF_KIND.get(invoked["kind"], "tasks")


def statuses(ledger: str, ids: list[str]) -> dict[str, str]:
    model, column = LEDGERS[ledger]
    rows: list[tuple[str, str]] = []
    for part in (ids[start : start + MAX_IDS] for start in range(0, len(ids), MAX_IDS)):
        rows += model._default_manager.filter(**{f"{column}__in": part}).values_list(column, "status")
    return dict(rows)


def main() -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    observer = Observer(own_history())
    print("ready.", flush=True)
    while not stopped.wait(LOOK_SECONDS):
        try:
            observer.look()
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            connection.close()


# --- Afterwards -------------------------------------------------------------------------------------------------------


def calls_left() -> int:
    """How many calls of plain tasks have not ended, also of such as nobody has written into a history."""
    return Call.objects.count()


def dump(path: str) -> None:
    """Write everything that the checker has to know of the database into a file."""
    content = {
        "tasks": table(TaskResult.objects.all(), "task_id", "status", "result", "periodic_task_name", "date_created"),
        "operations": table(Operation.objects.all(), "task_id", "id", "status", "result", "attempts"),
        "launches": table(Launch.objects.all(), "task_id", "status", "result", "reason"),
        "jobs": {job.name: job_as_dict(job) for job in Job.objects.all()},
        "calls": sorted(Call.objects.values_list("task_id", flat=True)),
        "counters": dict(Counter.objects.values_list("name", "value")),
        "entries": list(Entry.objects.order_by("pk").values_list("title", "body")),
    }
    Path(path).write_text(json.dumps(content, default=str))


def table(rows: Any, *columns: str) -> dict[str, dict[str, Any]]:
    found: Iterable[dict[str, Any]] = rows.values(*columns)
    return {row[columns[0]]: row for row in found}


def job_as_dict(job: Job) -> dict[str, Any]:
    columns = ("id", "status", "source_state", "total", "succeeded", "failed", "value", "error")
    return {
        **{name: getattr(job, name) for name in columns},
        "results": list(job.results()),
        "failures": [failure["error"] for failure in first(job.failures(), 3)],
    }


def first(items: Iterator[Any], count: int) -> Iterator[Any]:
    return (item for item, _ in zip(items, range(count), strict=False))
