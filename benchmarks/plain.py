"""Plain tasks that do nothing, with their results in the ORM, side by side with plain Celery as it is and tuned."""

from benchmarks import peer
from benchmarks import plain_parts as parts
from benchmarks.report import Report, Row
from benchmarks.running import CORES, TIMEOUT_SECONDS, peer_worker, systems
from tests.system import System

WORKER = ("-Q", "cpu", "-c", str(CORES), "--include=benchmarks.plain_parts", "--loglevel=WARNING")


def run(*, quick: bool) -> Report:
    report = Report("plain")
    size = 20 if quick else 1
    with systems() as (postgres, sqlite):
        default = _peer(report, postgres, 2_000 // size, tuned=False)
        tuned = [_peer(report, postgres, 6_000 // size, tuned=True)]
        ours = _ours(report, postgres, "PostgreSQL", "nothing", 20_000 // size)
        alone = _ours(report, postgres, "PostgreSQL", "alone", 6_000 // size)
        tuned.append(_peer(report, postgres, 6_000 // size, tuned=True))
        on_sqlite = _ours(report, sqlite, "SQLite", "nothing", 20_000 // size)
        _ours(report, sqlite, "SQLite", "alone", 6_000 // size)
    best = max(row.rate for row in tuned)
    report.ratios = {
        "vs_celery_default": ours.rate / default.rate,
        "vs_celery_tuned": ours.rate / best,
        "one_message_each_vs_celery_default": alone.rate / default.rate,
        "one_message_each_vs_celery_tuned": alone.rate / best,
        "sqlite_vs_celery_default": on_sqlite.rate / default.rate,
    }
    return report


def _peer(report: Report, system: System, count: int, *, tuned: bool) -> Row:
    said = "tuned" if tuned else "default"
    system.call(parts.clear, timeout=TIMEOUT_SECONDS)
    seconds = system.call(peer.enqueue, count, timeout=TIMEOUT_SECONDS)
    report.add(Row(f"plain Celery, {said}: calls", "PostgreSQL", count, seconds, exact=True))
    with peer_worker(system, tuned=tuned):
        found = system.call(parts.outcome, count, timeout=TIMEOUT_SECONDS)
    return report.add(Row(f"plain Celery, {said}", "PostgreSQL", count, found["seconds"], found["exact"]))


def _ours(report: Report, system: System, on: str, task: str, count: int) -> Row:
    """Called beforehand, then run by a worker with a process per core, which prefetches as the tuned peer does."""
    how = "as they are" if task == "nothing" else "one message each"
    seconds = system.call(parts.enqueue, count, task, timeout=TIMEOUT_SECONDS)
    report.add(Row(f"plain tasks, {how}: calls", on, count, seconds, exact=True))
    with system.worker(*WORKER, "--prefetch-multiplier=64"):
        found = system.call(parts.outcome, count, timeout=TIMEOUT_SECONDS)
    return report.add(Row(f"plain tasks, {how}", on, count, found["seconds"], found["exact"]))
