"""Plain tasks that do nothing beside those of other task queues, each in a virtual environment of its own, with its
results kept, two processes, and the settings that its documentation recommends. One after the other, in turns.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import plain_parts as parts
from benchmarks.report import Report, Row
from benchmarks.running import CORES, TIMEOUT_SECONDS
from handbell.embedded.broker import EmbeddedBroker
from tests.packaging.environments import Environment
from tests.servers import DurableValkey, Postgres, valkey_command, wait_for
from tests.system import System

PROGRAMS = Path(__file__).parent / "peer_programs"
OURS = "handbell"
#: Peers that the index of packages may not have, or that need another Python and Django.
LEFT_OUT = {
    "dj_queue": "dj-queue needs Python 3.12 with Django 6, and is left out here",
    "steady_queue": "steady-queue needs Python 3.12 with Django 6, and is left out here",
}


@dataclass(frozen=True)
class Peer:
    """The command of its workers, and whether it keeps its work in PostgreSQL or in Redis."""

    worker: Sequence[str]
    on: str = "Redis"


PEERS = {
    "huey": Peer(["huey_consumer", "huey_program.huey", "-k", "process", "-w", str(CORES), "-d", "0.005", "-q"]),
    "dramatiq": Peer(["dramatiq", "dramatiq_program", "--processes", str(CORES), "--threads", "8"]),
    "rq": Peer(["rq", "worker-pool", "benchmark", "-n", str(CORES), "-w", "rq.worker.SimpleWorker", "-q"]),
    "taskiq": Peer(["taskiq", "worker", "taskiq_program:broker", "--workers", str(CORES), "--log-level", "WARNING"]),
    "procrastinate": Peer(
        ["procrastinate", "--app=procrastinate_program.app", "worker", "--concurrency=10"], "PostgreSQL"
    ),
    "celery": Peer(["celery", "--app=celery_program", "worker", "-c", str(CORES), "--loglevel=WARNING"]),
}


def run(*, quick: bool) -> Report:
    report = Report("peers")
    calls, waits, rounds = (1_000, 20, 1) if quick else (10_000, 100, 3)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        servers = stack.enter_context(_Servers.running(Path(name)))
        environments = {peer: _environment(Path(name) / peer, peer) for peer in PEERS}
        for _ in range(rounds):
            found[OURS].append(_ours(servers, calls, waits))
            for peer, python in environments.items():
                found[peer].append(_theirs(servers, peer, python, calls, waits))
        versions = {peer: _version(python, peer) for peer, python in environments.items()}
    for peer, runs in found.items():
        on = "PostgreSQL" if peer == OURS else PEERS[peer].on
        exact = all(it["exact"] for it in runs)
        for what, key in (("calls", "enqueue_seconds"), ("run", "run_seconds")):
            times = [it[key] for it in runs]
            spread = f"{calls / max(times):,.0f} to {calls / min(times):,.0f}/s"
            report.add(Row(f"{peer}: {what}", on, calls, statistics.median(times), exact, spread))
        times = [it["wait_ms"] for it in runs]
        note = f"{statistics.median(times):.1f} ms"
        report.add(
            Row(f"{peer}: call to result, idle", on, waits, waits * statistics.median(times) / 1000, exact, note)
        )
    rates = {row.what: row.rate for row in report.rows}
    report.ratios = {f"vs_{peer}": rates[f"{OURS}: run"] / rates[f"{peer}: run"] for peer in PEERS}
    report.ratios |= {f"calls_vs_{peer}": rates[f"{OURS}: calls"] / rates[f"{peer}: calls"] for peer in PEERS}
    report.more = {"versions": versions, "left_out": LEFT_OUT}
    return report


class _Servers:
    """A system of ours, and what the peers keep their work in."""

    def __init__(self, system: System, postgres: Postgres, redis: DurableValkey) -> None:
        self.system, self.postgres, self.redis = system, postgres, redis
        self._databases = 0

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator["_Servers"]:
        postgres, redis = Postgres(folder / "postgres"), DurableValkey(folder / "redis")
        system = System(
            folder / "system", {"DATABASE_URL": postgres.create_database("ours"), "SECRET_KEY": "benchmark " * 6}
        )
        broker = EmbeddedBroker(system.folder / "broker")
        broker.attach()
        try:
            assert system.manage("migrate").returncode == 0
            yield cls(system, postgres, redis)
        finally:
            broker.release()
            redis.stop()
            postgres.stop()

    def fresh(self) -> dict[str, str]:
        """An empty Redis and an empty database, as addresses."""
        valkey_command(self.redis.port, "FLUSHALL")
        self._databases += 1
        return {
            "REDIS_URL": self.redis.url(),
            "DATABASE_URL": self.postgres.create_database(f"peer{self._databases}"),
        }


def _environment(folder: Path, peer: str) -> Path:
    """The interpreter of a peer's own environment; Celery's is this one."""
    requirements = PROGRAMS / f"{peer}.txt"
    if not requirements.exists():
        return Path(sys.executable)
    environment = Environment.make(folder, Path(sys.executable))
    environment.install("--require-hashes", "-r", str(requirements))
    return environment.python


def _ours(servers: _Servers, calls: int, waits: int) -> dict[str, Any]:
    system = servers.system
    seconds = system.call(parts.enqueue, calls, timeout=TIMEOUT_SECONDS)
    with system.worker("-Q", "cpu", "-c", str(CORES), "--include=benchmarks.plain_parts", "--loglevel=WARNING"):
        ran = system.call(parts.outcome, calls, timeout=TIMEOUT_SECONDS)
        times = system.call(parts.idle, waits, timeout=TIMEOUT_SECONDS)
    return {
        "enqueue_seconds": seconds,
        "run_seconds": ran["seconds"],
        "wait_ms": statistics.median(times),
        "exact": ran["exact"],
    }


def _theirs(servers: _Servers, peer: str, python: Path, calls: int, waits: int) -> dict[str, Any]:
    path = f"{python.parent}:{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    environment = {**inherited, **servers.fresh(), "PATH": path, "PYTHONPATH": str(PROGRAMS)}
    command = [str(python), "driver.py", f"{peer}_program", str(calls), str(waits)]
    with subprocess.Popen(
        command, cwd=PROGRAMS, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        try:
            enqueued = json.loads(driver.stdout.readline())
            with _workers(peer, python, environment):
                driver.stdin.write("\n")
                driver.stdin.flush()
                ran = json.loads(driver.stdout.readline())
        finally:
            driver.kill()
    return {**enqueued, **ran, "wait_ms": statistics.median(ran["wait_ms"])}


@contextmanager
def _workers(peer: str, python: Path, environment: dict[str, str]) -> Iterator[None]:
    """Its workers: one command that starts both processes, or, where there is none, the same one twice."""
    program, *arguments = PEERS[peer].worker
    command = [str(python.parent / program), *arguments]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    processes = [
        subprocess.Popen(command, cwd=PROGRAMS, env=environment, **quiet)
        for _ in range(CORES if peer == "procrastinate" else 1)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            wait_for(lambda p=process: p.poll() is not None, f"{peer} has ended")  # type: ignore[misc]


def _version(python: Path, peer: str) -> str:
    ask = f"import importlib.metadata; print(importlib.metadata.version({peer!r}))"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
