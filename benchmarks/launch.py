"""Launches, side by side with a manager process that forks a worker process and with Pebble, and how late kills are."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import launch_parts
from benchmarks.report import Report, Row
from handbell.embedded.broker import EmbeddedBroker
from tests.servers import Postgres
from tests.system import System

WORKER = ("-Q", "isolated", "-c", "2", "--include=benchmarks.launch_parts", "--loglevel=WARNING")
HANGING = 500
TIMEOUT_SECONDS = 180.0


def run(*, quick: bool) -> Report:
    report = Report("launch")
    size = 20 if quick else 1
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        sqlite = System(Path(folder) / "sqlite")
        server = Postgres(Path(folder) / "postgres")
        try:
            environment = {"DATABASE_URL": server.create_database("launch"), "SECRET_KEY": "benchmark " * 6}
            postgres = System(Path(folder) / "system", environment)
            brokers = [EmbeddedBroker(system.folder / "broker") for system in (postgres, sqlite)]
            for system, broker in zip((postgres, sqlite), brokers, strict=True):
                broker.attach()  # there throughout, for as long as `brokers` is
                assert system.manage("migrate").returncode == 0
            _measure(report, postgres, sqlite, size)
        finally:
            server.stop()
    return report


def _measure(report: Report, postgres: System, sqlite: System, size: int) -> None:
    manager = _peer(
        report, postgres, "manager process forks worker process", launch_parts.manager_and_worker, 600 // size, 1
    )
    _peer(report, postgres, "the same, 8 managers at once", launch_parts.manager_and_worker, 600 // size, 8)
    _peer(report, postgres, "one fork after the other, no deadline", launch_parts.one_fork, 600 // size)
    pebble = _peer(report, postgres, "Pebble, max_tasks=1", launch_parts.pebble, 60 // size + 5)
    ours = _launches(report, postgres, "PostgreSQL", 3_000 // size)
    on_sqlite = _launches(report, sqlite, "SQLite", 3_000 // size)
    late = _kills(report, postgres, HANGING // size)
    report.ratios = {
        "vs_manager_worker": ours.rate / manager.rate,
        "vs_pebble": ours.rate / pebble.rate,
        "sqlite_vs_manager_worker": on_sqlite.rate / manager.rate,
    }
    report.more["survivors"] = late.pop("survivors")
    report.more["kill_lateness_ms"] = late


def _peer(
    report: Report, system: System, what: str, measure: Callable[..., dict[str, Any]], count: int, *more: int
) -> Row:
    """In a process with Django loaded."""
    found = system.call(measure, count, *more, timeout=TIMEOUT_SECONDS)
    return report.add(Row(what, "no ledger", count, found["seconds"], found["exact"], "smaller sample"))


def _launches(report: Report, system: System, on: str, count: int) -> Row:
    """Enqueued in bulk, then run by one worker: claim, process, outcome written."""
    with system.worker(*WORKER):
        enqueued = system.call(launch_parts.prefill, count, timeout=TIMEOUT_SECONDS)
        found = system.call(launch_parts.outcome, timeout=TIMEOUT_SECONDS)
    report.add(Row("launch_many", on, count, enqueued, exact=True))
    return report.add(Row("launches that do nothing", on, count, found["seconds"], found["exact"]))


def _kills(report: Report, system: System, count: int) -> dict[str, Any]:
    system.environment["HANDBELL_LAUNCH_CONCURRENCY"] = str(count)
    with system.worker(*WORKER):
        found: dict[str, Any] = system.call(launch_parts.kills, count, timeout=TIMEOUT_SECONDS)
    ok = found.pop("exact") and found["survivors"] == 0
    seconds = found["max"] / 1000
    note = f"{found.pop('at_once')} at the same time; every other one ignores TERM"
    report.add(Row("hanging launches, from deadline to death", "PostgreSQL", count, seconds, ok, note))
    return found
