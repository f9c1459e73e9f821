"""A million plain calls of `fibonacci` from ten threads, run by two workers with three queues each, on RabbitMQ and
PostgreSQL; every id is stored, and every result fetched by its id and checked. Beside it, a slice with tuned Celery.
"""

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import million_parts as parts
from benchmarks.plain_parts import clear
from benchmarks.report import Report, Row
from benchmarks.running import CORES, TIMEOUT_SECONDS, peer_worker
from tests.servers import Postgres, RabbitMQ
from tests.system import Running, System

CALLS, QUICK_CALLS, PEER_PART = 1_000_000, 10_000, 100
WARM_UP = 0.1  # of the time, in which processes load what they need


def run(*, quick: bool) -> Report:
    report = Report("million")
    calls = QUICK_CALLS if quick else CALLS
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        server, broker = Postgres(folder / "postgres"), RabbitMQ(folder / "rabbitmq")
        stack.callback(server.stop)
        stack.callback(broker.stop)
        environment = {
            "DATABASE_URL": server.create_database("million"),
            "CELERY_BROKER_URL": broker.create_vhost("million"),
            "SECRET_KEY": "benchmark " * 6,
        }
        system = System(folder / "system", environment)
        assert system.manage("migrate").returncode == 0
        slice_calls = max(1_000, calls // PEER_PART)
        with peer_worker(system, tuned=True):
            peer = _measure(report, system, "peer", slice_calls, folder)
        system.call(clear, timeout=TIMEOUT_SECONDS)
        memory: dict[str, list[float]] = defaultdict(list)
        with _workers(system) as workers, _watched(workers, memory):
            ours = _measure(report, system, "handbell", calls, folder)
    found = {name: _at_three_moments(sizes) for name, sizes in memory.items()}
    found["producer"] = ours["memory_mb"]
    report.ratios = {"vs_celery_tuned": ours["row"].rate / peer["row"].rate}
    report.more = {
        "calls": calls,
        "minutes": round(ours["row"].seconds / 60, 2),
        "memory_mb": found,
        "memory_growth": round(max(sizes[-1] / sizes[0] for sizes in found.values()), 2),
    }
    return report


def _measure(report: Report, system: System, kind: str, calls: int, folder: Path) -> dict[str, Any]:
    said = "plain tasks" if kind == "handbell" else "plain Celery, tuned"
    on, began = "PostgreSQL, RabbitMQ", time.time()
    made = system.call(parts.produce, kind, calls, str(folder), timeout=TIMEOUT_SECONDS)
    report.add(Row(f"{said}: calls from ten threads", on, calls, made["seconds"], exact=True))
    ended = system.call(parts.wait, kind, calls, timeout=TIMEOUT_SECONDS)
    fetched = system.call(parts.fetch, kind, str(folder), timeout=TIMEOUT_SECONDS)
    exact = fetched["right"] == calls
    row = report.add(Row(f"{said}: first call to last result", on, calls, ended - began, exact))
    report.add(Row(f"{said}: results fetched by id", on, calls, fetched["seconds"], exact))
    return {"row": row, "memory_mb": made["memory_mb"]}


@contextmanager
def _workers(system: System) -> Iterator[list[Running]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                system.worker("-Q", ",".join(parts.QUEUES), "-c", str(CORES // 2), "-n", f"million{number}@%h")
            )
            for number in range(2)
        ]


@contextmanager
def _watched(workers: list[Running], memory: dict[str, list[float]]) -> Iterator[None]:
    """Note the private memory of each worker with its processes, in MiB, every second."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(1):
            for number, worker in enumerate(workers):
                processes = [worker.process, *worker.process.children(recursive=True)]
                memory[f"worker {number + 1}"].append(sum(map(_megabytes, processes)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _megabytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().uss) / 2**20
    except psutil.Error:
        return 0.0


def _at_three_moments(sizes: list[float]) -> list[int]:
    return [round(sizes[index]) for index in (int(len(sizes) * WARM_UP), len(sizes) // 2, -1)]
