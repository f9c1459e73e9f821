"""What benchmarks run on: a system in each column, with servers of its own, and workers."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from handbell.embedded.broker import EmbeddedBroker
from tests.servers import Postgres
from tests.system import Running, System

CORES = 2
TIMEOUT_SECONDS = 3600.0  # for a function that a measured system runs


@contextmanager
def systems() -> Iterator[tuple[System, System]]:
    """A system on PostgreSQL and one on SQLite, each with an embedded broker that stays throughout."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, ExitStack() as stack:
        server = Postgres(Path(folder) / "postgres")
        stack.callback(server.stop)
        environment = {"DATABASE_URL": server.create_database("benchmark"), "SECRET_KEY": "benchmark " * 6}
        made = (System(Path(folder) / "postgres-system", environment), System(Path(folder) / "sqlite-system"))
        for system in made:
            broker = EmbeddedBroker(system.folder / "broker")
            broker.attach()
            stack.callback(broker.release)
            assert system.manage("migrate").returncode == 0
        yield made


def ask(system: System, parts: str, expression: str, timeout: float = TIMEOUT_SECONDS) -> Any:
    """The value of `expression`, a call of a function in the module `benchmarks.PARTS`, in a process of its own."""
    return system.python(f"from benchmarks import {parts}\nanswer = {parts}.{expression}", timeout)


@contextmanager
def worker(system: System, *options: str) -> Iterator[Running]:
    """A worker of queue `cpu` with a process per core."""
    include = "--include=benchmarks.parallel_parts"
    with system.worker("-Q", "cpu", "-c", str(CORES), include, *options) as running:
        yield running


@contextmanager
def peer_worker(system: System, *, tuned: bool) -> Iterator[Running]:
    """A worker of the peer's, plain Celery with a process per core."""
    options = ["-Q", "peer", "-c", str(CORES), "-n", "peer@%h", "--loglevel=WARNING"]
    if tuned:
        system.environment["PEER_TUNED"] = "yes"
    try:
        with system.process("celery", "--app=benchmarks.peer", "worker", *options) as running:
            yield running
    finally:
        system.environment.pop("PEER_TUNED", None)


def megabytes(running: Running) -> int:
    """The resident memory of the largest child of a worker, in MiB."""
    return max(int(child.memory_info().rss) for child in psutil.Process(running.process.pid).children()) // 2**20
