"""How long a person waits: for a result when nothing else is to do, and for a task to begin when the cores are busy."""

import statistics
from dataclasses import replace

from benchmarks import plain_parts as parts
from benchmarks.report import Report, Row
from benchmarks.running import CORES, TIMEOUT_SECONDS, systems
from handbell.queues import worker_options
from tasks_app.queues import CPU, HIGH
from tests.system import System

OPTIONS = ("--include=benchmarks.plain_parts", "--loglevel=WARNING")
ITEMS = 1_000_000


def run(*, quick: bool) -> Report:
    report = Report("latency")
    calls = 20 if quick else 300
    with systems() as (postgres, sqlite):
        for system, on, suffix in ((postgres, "PostgreSQL", ""), (sqlite, "SQLite", "_sqlite")):
            report.more[f"idle_ms{suffix}"] = _idle(report, system, on, calls)
            report.more[f"busy_ms{suffix}"] = _busy(report, system, on, calls, 100 if quick else 2_000)
    return report


def _idle(report: Report, system: System, on: str, calls: int) -> dict[str, float]:
    system.call(parts.clear, timeout=TIMEOUT_SECONDS)
    with system.worker("-Q", "cpu", "-c", str(CORES), *OPTIONS):
        times = system.call(parts.idle, calls, timeout=TIMEOUT_SECONDS)
    return _add(report, "idle: call to result", on, times)


def _busy(report: Report, system: System, on: str, calls: int, tasks: int) -> dict[str, float]:
    system.call(parts.clear, timeout=TIMEOUT_SECONDS)
    system.call(parts.occupy, tasks, ITEMS, timeout=TIMEOUT_SECONDS)
    cpu, high = worker_options(replace(CPU, concurrency=CORES)), worker_options(replace(HIGH, concurrency=4))
    with system.worker(*cpu, *OPTIONS), system.worker(*high, *OPTIONS):
        times = system.call(parts.busy, calls, timeout=TIMEOUT_SECONDS)
        still = system.call(parts.still_busy)
    system.call(parts.purge, timeout=TIMEOUT_SECONDS)
    return _add(report, "cores busy: call to start on high", on, times, exact=still)


def _add(report: Report, what: str, on: str, times: list[float], *, exact: bool = True) -> dict[str, float]:
    ordered = sorted(times)
    found = {"p50": round(statistics.median(ordered), 1), "p99": round(ordered[int(len(ordered) * 0.99)], 1)}
    report.add(Row(what, on, len(times), sum(times) / 1000, exact, f"p50 {found['p50']} ms, p99 {found['p99']} ms"))
    return found
