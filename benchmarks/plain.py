"""Plain tasks that do nothing, with their results in the ORM, side by side with plain Celery as it is and tuned."""

from benchmarks.report import Report, Row
from benchmarks.running import CORES, ask, peer_worker, systems
from tests.system import System

PARTS = "plain_parts"
WORKER = ("-Q", "cpu", "-c", str(CORES), "--include=benchmarks.plain_parts", "--loglevel=WARNING")


def run(*, quick: bool) -> Report:
    report = Report("plain")
    size = 20 if quick else 1
    with systems() as (postgres, sqlite):
        default = _peer(report, postgres, 2_000 // size, tuned=False)
        tuned = _peer(report, postgres, 8_000 // size, tuned=True)
        ours = _ours(report, postgres, "PostgreSQL", 20_000 // size)
        again = _peer(report, postgres, 8_000 // size, tuned=True)
        on_sqlite = _ours(report, sqlite, "SQLite", 20_000 // size)
    report.ratios = {
        "vs_celery_default": ours.rate / default.rate,
        "vs_celery_tuned": ours.rate / max(tuned.rate, again.rate),
        "sqlite_vs_celery_default": on_sqlite.rate / default.rate,
    }
    return report


def _peer(report: Report, system: System, count: int, *, tuned: bool) -> Row:
    said = "tuned" if tuned else "default"
    ask(system, PARTS, "clear()")
    seconds = ask(system, "peer", f"enqueue({count})")
    report.add(Row(f"plain Celery, {said}: calls", "PostgreSQL", count, seconds, exact=True))
    with peer_worker(system, tuned=tuned):
        found = ask(system, PARTS, f"outcome({count})")
    return report.add(Row(f"plain Celery, {said}", "PostgreSQL", count, found["seconds"], found["exact"]))


def _ours(report: Report, system: System, on: str, count: int) -> Row:
    for what, how in (("calls in one transaction", "enqueue_together"), ("calls, one by one", "enqueue")):
        seconds = ask(system, PARTS, f"{how}({count})")
        report.add(Row(what, on, count, seconds, exact=ask(system, PARTS, "waiting()") >= count))
        if how == "enqueue_together":
            ask(system, PARTS, "purge()")
    with system.worker(*WORKER):
        found = ask(system, PARTS, f"outcome({count})")
    return report.add(Row("plain tasks, two processes", on, count, found["seconds"], found["exact"]))
