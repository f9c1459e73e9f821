"""Queues: what one is, and the table that a project gets if it has none of its own.

The table is the one place that lists queues. Workers, routes, `handbell up` and documentation derive from it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.module_loading import import_string
from kombu import Exchange
from kombu import Queue as KombuQueue

from handbell.arguments import require_integer, require_text
from handbell.conf import conf

CORES = os.cpu_count() or 1

#: Messages carry a priority from 0 to 9; 9 is taken first, on every broker.
MAX_PRIORITY = 9
DEFAULT_PRIORITY = 5

MAX_CONCURRENCY = 10_000
MAX_MEMORY_MB = 16_777_216
NOT_IN_QUEUE_NAMES = ", \t\n"  # `celery worker -Q` takes names with commas between them

#: The queues that Handbell's own messages go to. Every table has them.
SERIAL = "serial"
ISOLATED = "isolated"


@dataclass(frozen=True)
class Queue:
    """A queue and the worker that serves it.

    `concurrency` is the number of processes (or threads) of its worker; with `autoscale_from` the worker grows from
    that many up to it. `memory_mb` is the size in MiB at which a child process is replaced after its task.
    `concurrency_shown` is how documentation names the concurrency where it differs between machines. `is_default`:
    tasks that name no queue go here. `is_shared`: the workers that `handbell up --workers NAMES` starts take it.
    """

    name: str
    pool: str
    concurrency: int
    purpose: str
    autoscale_from: int | None = None
    memory_mb: int | None = None
    concurrency_shown: str | None = None
    is_default: bool = False
    is_shared: bool = True

    def __post_init__(self) -> None:
        """
        Raises:
            TypeError, ValueError: a number or a name makes no sense.
        """
        require_text("The name of a queue", self.name)
        if not self.name or not set(self.name).isdisjoint(NOT_IN_QUEUE_NAMES):
            raise ValueError(f"A queue is called {self.name!r}: a name has neither spaces nor commas.")
        require_text(f"The pool of queue {self.name}", self.pool)
        require_integer(f"The concurrency of queue {self.name}", self.concurrency, 1, MAX_CONCURRENCY)
        if self.autoscale_from is not None:
            require_integer(f"autoscale_from of queue {self.name}", self.autoscale_from, 0, self.concurrency)
        if self.memory_mb is not None:
            require_integer(f"memory_mb of queue {self.name}", self.memory_mb, 1, MAX_MEMORY_MB)

    @property
    def concurrency_here(self) -> int:
        """The concurrency on this machine: the table's, unless `HANDBELL_CONCURRENCY` says otherwise."""
        return conf.CONCURRENCY.get(self.name, self.concurrency)


#: One process applies the operations of all lanes in turn; more processes take lanes side by side.
SERIAL_QUEUE = Queue(SERIAL, "prefork", 1, "Changes to shared state, one at a time.", is_shared=False)
#: One process supervises, and starts many launches at once; the other takes the messages that come meanwhile.
ISOLATED_QUEUE = Queue(
    ISOLATED,
    "prefork",
    2,
    "Launches: code that may hang, in a fresh process each, dead at its deadline.",
    is_shared=False,
)

#: The table of a project that has none of its own.
QUEUES = (
    SERIAL_QUEUE,
    Queue("celery", "prefork", CORES, "Everything else.", concurrency_shown="one per core", is_default=True),
    Queue("io", "threads", 16, "Work that mostly waits: pages, files, other services."),
    ISOLATED_QUEUE,
)


def queue_table() -> tuple[Queue, ...]:
    """The table that `HANDBELL_QUEUES` names.

    Raises:
        ImportError: there is nothing at that import path.
    """
    return tuple(import_string(conf.QUEUES))


def queue_names() -> list[str]:
    return [queue.name for queue in queue_table()]


def default_queue() -> str:
    """The queue of a task that names none."""
    return next(queue.name for queue in queue_table() if queue.is_default)


def problems_in(table: Sequence[Queue]) -> list[str]:
    """What is wrong with a table of queues, in sentences."""
    names = [queue.name for queue in table]
    found = [f"It has the queue {name} more than once." for name in sorted(set(names)) if names.count(name) > 1]
    found += [
        f"It has no queue {name}, which Handbell's own messages go to."
        for name in (SERIAL, ISOLATED)
        if name not in names
    ]
    if sum(queue.is_default for queue in table) != 1:
        found.append("Exactly one queue must have is_default=True.")
    return found


def kombu_queues() -> list[KombuQueue]:
    """The table as Celery's `task_queues`."""
    return [
        KombuQueue(queue.name, Exchange(queue.name, type="direct"), routing_key=queue.name, max_priority=MAX_PRIORITY)
        for queue in queue_table()
    ]


def worker_options(queue: Queue) -> list[str]:
    """The `celery worker` options of the worker that serves `queue`."""
    concurrency = queue.concurrency_here
    options = [f"--queues={queue.name}", f"--hostname={queue.name}@%h", f"--pool={queue.pool}"]
    if queue.autoscale_from is not None:
        options.append(f"--autoscale={concurrency},{min(queue.autoscale_from, concurrency)}")
    else:
        options.append(f"--concurrency={concurrency}")
    if queue.memory_mb is not None:
        options.append(f"--max-memory-per-child={queue.memory_mb * 1024}")
    return options


def shared_worker_options(name: str) -> list[str]:
    """The options of a worker called `name` that takes every shared queue."""
    shared = [queue for queue in queue_table() if queue.is_shared]
    concurrency = next(queue for queue in queue_table() if queue.is_default).concurrency_here
    taken = ",".join(queue.name for queue in shared)
    return [f"--queues={taken}", f"--hostname={name}@%h", "--pool=prefork", f"--concurrency={concurrency}"]
