"""Plain tasks, with their results in the ORM, side by side with plain Celery as it is and tuned: calling them, running
them, and quick ones beside slow ones.

The peer keeps its results in PostgreSQL. A call of its own does not touch the database.
"""

from typing import Any

from benchmarks import peer
from benchmarks import plain_parts as parts
from benchmarks.report import Report, Row, percentiles
from benchmarks.running import CORES, TIMEOUT_SECONDS, peer_worker, systems
from tests.system import System

WORKER = ("-Q", "cpu", "-c", str(CORES), "--include=benchmarks.plain_parts", "--loglevel=WARNING")
SLOW_SECONDS = 10.0
#: How tasks are called, and the function that does so, which returns the seconds that it took.
WAYS = {
    "calls, one at a time": parts.call_each,
    "calls, a hundred in a transaction": parts.call_in_hundreds,
    "calls, a thousand in bulk()": parts.call_in_bulk,
    "calls, a group of a thousand": parts.call_groups,
}


def run(*, quick: bool) -> Report:
    report = Report("plain")
    size = 20 if quick else 1
    with systems() as (postgres, sqlite):
        default, _ = _peer(report, postgres, 2_000 // size, tuned=False)
        group = _peer_groups(report, postgres, 20_000 // size)
        tuned = [_peer(report, postgres, 6_000 // size, tuned=True)]
        ours = _ours(report, postgres, "PostgreSQL", size)
        tuned.append(_peer(report, postgres, 6_000 // size, tuned=True))
        on_sqlite = _ours(report, sqlite, "SQLite", size)
        best, calls = (max(row.rate for row in rows) for rows in zip(*tuned, strict=True))
        for found in (ours, on_sqlite):
            rates = found.pop("rates")
            one, atomic, bulk, groups = (rates[way] for way in WAYS)
            found["ratios"] = {
                "vs_celery_default": rates["run"] / default.rate,
                "vs_celery_tuned": rates["run"] / best,
                "one_message_each_vs_celery_tuned": rates["run alone"] / best,
                "call_vs_celery": one / calls,
                "call_atomic_vs_celery": atomic / calls,
                "bulk_vs_celery": bulk / calls,
                "group_vs_celery": groups / group.rate,
            }
    report.ratios, report.more = ours.pop("ratios"), {**ours, "sqlite": on_sqlite}
    return report


def _peer(report: Report, system: System, count: int, *, tuned: bool) -> tuple[Row, Row]:
    said = "tuned" if tuned else "default"
    system.call(parts.clear, timeout=TIMEOUT_SECONDS)
    seconds = system.call(peer.enqueue, count, timeout=TIMEOUT_SECONDS)
    calls = report.add(Row(f"plain Celery, {said}: calls", "PostgreSQL", count, seconds, exact=True))
    with peer_worker(system, tuned=tuned):
        found = system.call(parts.outcome, count, timeout=TIMEOUT_SECONDS)
    return report.add(Row(f"plain Celery, {said}", "PostgreSQL", count, found["seconds"], found["exact"])), calls


def _peer_groups(report: Report, system: System, count: int) -> Row:
    seconds = system.call(peer.enqueue_groups, count, timeout=TIMEOUT_SECONDS)
    system.call(peer.purge)
    return report.add(Row("plain Celery: calls, a group of a thousand", "PostgreSQL", count, seconds, exact=True))


def _ours(report: Report, system: System, on: str, size: int) -> dict[str, Any]:
    """Called in each way and not run; then called and run; then quick calls beside slow ones."""
    rates = {}
    for way, call in WAYS.items():
        count = max(1_000, 20_000 // size)
        found = system.call(call, count, timeout=TIMEOUT_SECONDS)
        rates[way] = report.add(Row(f"plain tasks: {way}", on, count, found["seconds"], found["exact"])).rate
    for way, task, count in (("run", "nothing", 20_000 // size), ("run alone", "alone", 6_000 // size)):
        rates[way] = _run(report, system, on, task, count).rate
    with system.worker(*WORKER):
        times = system.call(parts.mixed, SLOW_SECONDS / size**0.5, 3 if size == 1 else 1, timeout=TIMEOUT_SECONDS)
    return {"rates": rates, "mixed_ms": percentiles(report, "quick calls beside slow ones: call to start", on, times)}


def _run(report: Report, system: System, on: str, task: str, count: int) -> Row:
    """Called beforehand, then run by a worker with a process per core, which prefetches as the tuned peer does."""
    system.call(parts.enqueue, count, task, timeout=TIMEOUT_SECONDS)
    with system.worker(*WORKER, "--prefetch-multiplier=64"):
        found = system.call(parts.outcome, count, timeout=TIMEOUT_SECONDS)
    how = "" if task == "nothing" else ", one message each"
    return report.add(Row(f"plain tasks{how}", on, count, found["seconds"], found["exact"]))
