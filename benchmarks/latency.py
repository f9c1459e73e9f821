"""How long a person waits: for a result when nothing else is to do, and for a task to begin when the cores are busy."""

from dataclasses import replace

from benchmarks import plain_parts as parts
from benchmarks.report import Report, percentiles
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
    return percentiles(report, "idle: call to result", on, times)


def _busy(report: Report, system: System, on: str, calls: int, tasks: int) -> dict[str, float]:
    system.call(parts.clear, timeout=TIMEOUT_SECONDS)
    system.call(parts.occupy, tasks, ITEMS, timeout=TIMEOUT_SECONDS)
    cpu, high = worker_options(replace(CPU, concurrency=CORES)), worker_options(replace(HIGH, concurrency=4))
    with system.worker(*cpu, *OPTIONS), system.worker(*high, *OPTIONS):
        times = system.call(parts.busy, calls, timeout=TIMEOUT_SECONDS)
        still = system.call(parts.still_busy)
    system.call(parts.purge, timeout=TIMEOUT_SECONDS)
    return percentiles(report, "cores busy: call to start on high", on, times, exact=still)
