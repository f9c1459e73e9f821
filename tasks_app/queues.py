"""Every queue, in one table. Workers, routes, the process list and the documentation derive from it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kombu import Exchange
from kombu import Queue as CeleryQueue

CORES = os.cpu_count() or 1

#: Messages carry a priority from 0 to 9; 9 is taken first, on every broker.
HIGHEST_PRIORITY = 9
DEFAULT_PRIORITY = 5


@dataclass(frozen=True)
class Queue:
    """A queue and the worker that serves it.

    `concurrency` is the number of processes (or threads) of its worker; with `autoscale_from` the worker grows from
    that many up to it. `memory_mb` is the size in MiB at which a child process is replaced after its task. `shown` is
    how documentation names the concurrency where it differs between machines.
    """

    name: str
    pool: str
    concurrency: int
    purpose: str
    autoscale_from: int | None = None
    memory_mb: int | None = None
    adjustable: bool = True
    shown: str | None = None

    @property
    def variable(self) -> str:
        """The environment variable that sets the concurrency."""
        return f"{self.name.upper()}_CONCURRENCY"


SERIAL = Queue("serial", "prefork", 1, "Changes to shared state, one at a time.", adjustable=False)
HIGH = Queue("high", "prefork", 4, "Short work that a person is waiting for.", memory_mb=300)
CPU = Queue(
    "cpu", "prefork", CORES, "Computation on every core.", autoscale_from=1, memory_mb=300, shown="one per core"
)
IO = Queue("io", "threads", 16, "Work that mostly waits: pages, files, other services.")
# One process supervises, and starts many launches at once; the other takes the messages that come meanwhile.
ISOLATED = Queue(
    "isolated",
    "prefork",
    2,
    "Launches: code that may hang, in a fresh process each, dead at its deadline.",
    adjustable=False,
)

QUEUES = (SERIAL, HIGH, CPU, IO, ISOLATED)

#: Where a task goes that names no queue.
DEFAULT = CPU

#: The queues that a worker started with `up --workers NAME` takes: parallel work of every kind.
SHARED = (HIGH, CPU, IO)

#: A Fibonacci number up to this one is ready within a millisecond or so, and is not made to wait behind larger ones.
QUICK_FIBONACCI = 15


def route(
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    task: object = None,
    **extra: object,
) -> dict[str, str] | None:
    """Celery's router: the queue of a task that names none itself, or None for the default queue."""
    if name == "tasks_app.tasks.fibonacci":
        n = args[0] if args else (kwargs or {}).get("n")
        return {"queue": HIGH.name if isinstance(n, int) and n <= QUICK_FIBONACCI else CPU.name}
    return None


def declarations() -> list[CeleryQueue]:
    """The table as Celery's `task_queues`."""
    return [
        CeleryQueue(
            queue.name,
            Exchange(queue.name, type="direct"),
            routing_key=queue.name,
            max_priority=HIGHEST_PRIORITY,
        )
        for queue in QUEUES
    ]


def worker_options(queue: Queue, concurrency: int) -> list[str]:
    """The `celery worker` options of the worker that serves `queue` with `concurrency` processes or threads."""
    options = [f"--queues={queue.name}", f"--hostname={queue.name}@%h", f"--pool={queue.pool}"]
    if queue.autoscale_from is not None:
        options.append(f"--autoscale={concurrency},{min(queue.autoscale_from, concurrency)}")
    else:
        options.append(f"--concurrency={concurrency}")
    if queue.memory_mb is not None:
        options.append(f"--max-memory-per-child={queue.memory_mb * 1024}")
    return options


def shared_worker_options(name: str, concurrency: int) -> list[str]:
    """The options of a worker called `name` that takes every queue in `SHARED`."""
    taken = ",".join(queue.name for queue in SHARED)
    return [f"--queues={taken}", f"--hostname={name}@%h", "--pool=prefork", f"--concurrency={concurrency}"]
