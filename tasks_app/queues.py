"""The queues of this project: one table, from which workers, routes, the process list and documentation derive."""

from collections.abc import Mapping, Sequence
from typing import Any

from handbell import CORES, ISOLATED_QUEUE, SERIAL_QUEUE, Queue

HIGH = Queue("high", "prefork", 4, "Short work that a person is waiting for.", memory_mb=300)
CPU = Queue(
    "cpu",
    "prefork",
    CORES,
    "Computation on every core.",
    autoscale_from=1,
    memory_mb=300,
    concurrency_shown="one per core",
    is_default=True,
)
IO = Queue("io", "threads", 16, "Work that mostly waits: pages, files, other services.")

QUEUES = (SERIAL_QUEUE, HIGH, CPU, IO, ISOLATED_QUEUE)

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
