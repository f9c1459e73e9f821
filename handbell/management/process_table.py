"""What `manage.py handbell up` runs: the list of processes, derived from the table of queues."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from django.conf import settings

from handbell.common.child_process import working_directory
from handbell.conf import conf
from handbell.embedded.broker import embedded_broker
from handbell.queues import Queue, queue_table, shared_worker_options, worker_options

#: Tells everything that `up` runs that it is run by `up`.
UNDER_UP_VARIABLE = "HANDBELL_UNDER_UP"
QUIET_START = ["--without-gossip", "--without-mingle", "--task-events"]


@dataclass(frozen=True)
class ManagedProcess:
    """One process to keep running: its name, its command, what it is for, and what its environment adds."""

    name: str
    command: Sequence[str]
    purpose: str
    environment: dict[str, str] = field(default_factory=dict)
    is_worker: bool = False


def manage(*arguments: str) -> list[str]:
    """A command of Django's, through the project's own manage.py if there is one."""
    manage_py = working_directory() / "manage.py"
    program = [str(manage_py)] if manage_py.exists() else ["-m", "django"]
    return [sys.executable, *program, *arguments]


def celery(*arguments: str) -> list[str]:
    """Without Celery's banner: `up` says itself what runs."""
    return manage("celery", "--quiet", *arguments)


def broker() -> ManagedProcess:
    return ManagedProcess("broker", embedded_broker().server_command(stand_by=True), "embedded Valkey")


def worker_for(queue: Queue) -> ManagedProcess:
    options = worker_options(queue)
    purpose = f"{queue.pool}, {queue.concurrency_here}: {queue.purpose}"
    return ManagedProcess(queue.name, celery("worker", *options, *QUIET_START), purpose, is_worker=True)


def shared_worker(name: str) -> ManagedProcess:
    options = shared_worker_options(name)
    taken = ", ".join(queue.name for queue in queue_table() if queue.is_shared)
    return ManagedProcess(name, celery("worker", *options, *QUIET_START), f"prefork: queues {taken}", is_worker=True)


def workers(names: Sequence[str]) -> list[ManagedProcess]:
    """One worker per queue; with `names`, one per name for the shared queues and one for each other queue."""
    if not names:
        return [worker_for(queue) for queue in queue_table()]
    own = [worker_for(queue) for queue in queue_table() if not queue.is_shared]
    return own + [shared_worker(name) for name in names]


def beat() -> ManagedProcess:
    pidfile = conf.DATA_DIR / "beat.pid"
    pidfile.unlink(missing_ok=True)  # `up` runs once per folder, so one that is left over is a dead one's
    files = [f"--pidfile={pidfile}", f"--schedule={conf.DATA_DIR / 'beat-schedule'}"]  # Celery's own scheduler has one
    return ManagedProcess("beat", celery("beat", *files), "starts periodic tasks")


def flower(port: int, credentials: str) -> ManagedProcess:
    return ManagedProcess(
        "flower",
        celery("flower", "--address=127.0.0.1", f"--port={port}"),
        "Celery's monitor",
        {"FLOWER_BASIC_AUTH": credentials},
    )


def web(host: str, port: int) -> ManagedProcess:
    """waitress; or Django's development server, where DEBUG is on (it serves static files) or waitress is missing."""
    application = settings.WSGI_APPLICATION
    if settings.DEBUG or not application or find_spec("waitress") is None:
        command = manage("runserver", "--noreload", f"{host}:{port}")
        return ManagedProcess("web", command, "pages and admin, by Django's development server")
    command = [sys.executable, "-m", "handbell.management.web_server", host, str(port), application]
    return ManagedProcess("web", command, "pages and admin, by waitress")


def has_flower() -> bool:
    return find_spec("flower") is not None


def environment(extra: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", UNDER_UP_VARIABLE: "1", **extra}
