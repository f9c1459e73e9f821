"""What `manage.py up` runs: the list of processes, derived from the table of queues."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.conf import settings

from tasks_app import queues

QUIET_START = ["--without-gossip", "--without-mingle", "--task-events"]


@dataclass(frozen=True)
class Process:
    """One process to keep running: its name, its command, what it is for, and what its environment adds."""

    name: str
    command: Sequence[str]
    purpose: str
    environment: dict[str, str] = field(default_factory=dict)
    is_worker: bool = False


def celery(*arguments: str) -> list[str]:
    return [sys.executable, str(settings.BASE_DIR / "manage.py"), "celery", *arguments]


def broker() -> Process:
    return Process("broker", settings.EMBEDDED_BROKER.keeper_command(stand_by=True), "embedded Valkey")


def worker_for(queue: queues.Queue) -> Process:
    concurrency = settings.QUEUE_CONCURRENCY[queue.name]
    options = queues.worker_options(queue, concurrency)
    purpose = f"{queue.pool}, {concurrency}: {queue.purpose}"
    return Process(queue.name, celery("worker", *options, *QUIET_START), purpose, is_worker=True)


def shared_worker(name: str) -> Process:
    concurrency = settings.QUEUE_CONCURRENCY[queues.CPU.name]
    options = queues.shared_worker_options(name, concurrency)
    taken = ", ".join(queue.name for queue in queues.SHARED)
    return Process(
        name, celery("worker", *options, *QUIET_START), f"prefork, {concurrency}: queues {taken}", is_worker=True
    )


def workers(names: Sequence[str]) -> list[Process]:
    """One worker per queue; with `names`, one per name for the shared queues and one for each other queue."""
    if not names:
        return [worker_for(queue) for queue in queues.QUEUES]
    own = [worker_for(queue) for queue in queues.QUEUES if queue not in queues.SHARED]
    return own + [shared_worker(name) for name in names]


def beat() -> Process:
    pidfile = settings.VAR_DIR / "beat.pid"
    pidfile.unlink(missing_ok=True)  # `up` runs once per folder, so one that is left over is a dead one's
    return Process("beat", celery("beat", f"--pidfile={pidfile}"), "starts periodic tasks")


def flower(port: int, credentials: str) -> Process:
    return Process(
        "flower",
        celery("flower", "--address=127.0.0.1", f"--port={port}"),
        "Celery's monitor",
        {"FLOWER_BASIC_AUTH": credentials},
    )


def web(host: str, port: int) -> Process:
    options = [f"--bind={host}:{port}", "--threads=8", "--graceful-timeout=3", "--no-control-socket"]
    command = [sys.executable, "-m", "gunicorn", "project.wsgi", *options, "--log-level=warning"]
    return Process("web", command, "pages and admin")


def environment(extra: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "DJANGO_SETTINGS_MODULE": "project.settings", **extra}
