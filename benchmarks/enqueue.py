"""Handing over many items: a job, operations in bulk, and plain Celery, one message each."""

from benchmarks import parallel_parts, serial_parts
from benchmarks.report import Report, Row
from benchmarks.running import TIMEOUT_SECONDS, systems


def run(*, quick: bool) -> Report:
    report = Report("enqueue")
    size = 100 if quick else 1
    with systems() as (postgres, sqlite):
        for system, on in ((postgres, "PostgreSQL"), (sqlite, "SQLite")):
            ids = 1_000_000 // size
            found = system.call(parallel_parts.start_times, ids, timeout=TIMEOUT_SECONDS)
            many = report.add(Row("job over a stream of ids", on, ids, found["stream"], exact=True))
            report.add(Row("job over range(1,000,000)", on, 1, found["range"], exact=True, note="one row, one message"))
            count = 200_000 // size
            seconds = system.call(serial_parts.prefill, count, 1, timeout=TIMEOUT_SECONDS)
            report.add(Row("operations, delay_many", on, count, seconds, exact=True))
            if on == "PostgreSQL":
                streamed = many
        count = 10_000 // size
        seconds = postgres.call(parallel_parts.peer_fib, 5, count, timeout=TIMEOUT_SECONDS)
        peer = report.add(Row("plain Celery, delay", "Valkey", count, seconds, exact=True, note="smaller sample"))
    report.ratios = {"job_vs_celery_delay": streamed.rate / peer.rate}
    return report
