"""What benchmarks/scale.py runs inside the system it measures: filling its tables, and the statements under load."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from django.db import connection, models, transaction
from django.utils import timezone
from django_celery_results.models import TaskResult

from benchmarks.plain_parts import nothing
from handbell import bulk
from handbell.models import Call, Launch, Operation, SweeperTurn
from handbell.models.job import Chunk, JobRow
from handbell.models.lane import LaneCount, lane_of
from handbell.plain import sql
from handbell.plain.batching import claim_batch
from handbell.serial.drain import LaneDrain
from handbell.sweeper import Sweeper
from tasks_app.models import Counter
from tasks_app.tasks import increment_value

ROUNDS = 7
PART_ROWS = 500_000  # in one statement
BATCH_CALLS, BATCHES = 50, 20
OPERATIONS = 2_000


def fill(rows: int) -> float:
    """Add so many finished rows of each kind to the ledger; the seconds that it took."""
    now, started = timezone.now(), time.perf_counter()
    done: dict[str, Any] = {"status": "succeeded", "result": "1", "enqueued_at": now, "finished_at": now}
    job = JobRow.objects.create(
        name="old", queue="cpu", status="succeeded", enqueued_at=now, finished_at=now, chunk_seconds=1
    )
    kinds: list[models.Model] = [
        Operation(task_id="o", task=increment_value.name, arguments='[["old"], {}]', lane=1, key="old", **done),
        Launch(task_id="l", task="old", arguments="[[], {}]", timeout=1, grace=1, memory_mb=1, **done),
        TaskResult(task_id="t", status="SUCCESS", result="1", task_name=nothing.name, worker="celery@old"),
        Chunk(job=job, first=0, count=1, status="succeeded", results="[1]", started_at=now, finished_at=now),
    ]
    for row in kinds:
        row.save()
        for first in range(1, rows, PART_ROWS):
            _copy(row, first, min(first + PART_ROWS, rows))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return time.perf_counter() - started


def _copy(row: models.Model, first: int, stop: int) -> None:
    """Add copies of a row, each with a number in what is unique."""
    columns = [str(field.column) for field in row._meta.concrete_fields if not field.primary_key]
    values = [{"task_id": "task_id || g", "first": "g"}.get(name, name) for name in columns]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {row._meta.db_table} ({', '.join(columns)}) SELECT {', '.join(values)} "
            f"FROM {row._meta.db_table} CROSS JOIN generate_series({first}, {stop - 1}) AS g WHERE id = {row.pk}"
        )


def drain() -> float:
    """Milliseconds for a batch of operations on one row."""
    count = LaneCount.objects.get(pk=1).count

    def once() -> None:
        LaneDrain(lane_of(Counter.key_of("scale"), count)).run(time.monotonic() + 600)

    return _median(once, before=lambda: increment_value.delay_many(("scale",) for _ in range(OPERATIONS)))


def claim() -> float:
    """Milliseconds to claim a batch of calls, of many that wait, and to store the results of the one before."""

    def call() -> None:
        with bulk():
            for number in range(BATCH_CALLS * BATCHES):
                nothing.delay(number)

    def once() -> None:
        while calls := claim_batch("cpu", BATCH_CALLS):
            changes = {"status": "SUCCESS", "result": "1", "meta": "{}", "date_done": timezone.now()}
            sql.finish_calls([(it.message.task_id, it.token, changes) for it in calls])

    with transaction.atomic():
        Call.objects.all().delete()
    return _median(once, before=call) / BATCHES


def sweep() -> float:
    """Milliseconds for one look of the sweeper at everything."""
    SweeperTurn.objects.all().delete()  # of the process before this one
    sweeper = Sweeper()
    found = _median(sweeper.sweep)
    assert sweeper.turn.is_ours()
    return found


def _median(run: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    times = []
    for _ in range(ROUNDS):
        before()
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1000)
    return median(times)


def is_exact() -> bool:
    """Whether everything that was measured was done."""
    counted = ROUNDS * OPERATIONS
    return Counter.objects.get(pk="scale").value % counted == 0 and not Call.objects.exists()
