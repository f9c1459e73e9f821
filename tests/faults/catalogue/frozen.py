"""Processes that stand still for longer than anybody waits for them, and then go on."""

from tests.faults.catalogue.processes import far_worker, fork_servers, pool_children
from tests.faults.faulting import Skipped, fault
from tests.faults.fleet import freeze
from tests.faults.ground import IDLE_SECONDS, LEASE_SECONDS, Ground

FROZEN_SECONDS = 2 * max(LEASE_SECONDS, IDLE_SECONDS) + 2


@fault("A worker stands still, with all its processes, and goes on.", quick=True)
def freeze_worker(ground: Ground) -> None:
    member = ground.choose(ground.workers("cpu", "serial", "io"))
    processes = [member.process, *member.process.children(recursive=True)]
    ground.record_hurt(*processes)
    freeze(processes, FROZEN_SECONDS)


@fault("A worker of another machine stands still, and goes on.")
def freeze_far_worker(ground: Ground) -> None:
    member = far_worker(ground)
    processes = [member.process, *member.process.children(recursive=True)]
    ground.record_hurt(*processes)
    freeze(processes, FROZEN_SECONDS)


@fault("A worker's main process stands still, and its children do not.")
def freeze_worker_main(ground: Ground) -> None:
    member = ground.choose(ground.workers())
    ground.record_hurt(member.process, *member.process.children(recursive=True))
    freeze([member.process], FROZEN_SECONDS)


@fault("A process of a pool stands still.")
def freeze_pool_child(ground: Ground) -> None:
    children = [ground.choose(pool_children(ground, queue)) for queue in ("cpu", "serial")]
    ground.record_hurt(*children)
    freeze(children, FROZEN_SECONDS)


@fault("A fork server stands still.")
def freeze_fork_server(ground: Ground) -> None:
    server = ground.choose(fork_servers(ground))
    ground.record_hurt(server, *server.children(recursive=True))
    freeze([server], FROZEN_SECONDS)


@fault("Half of PostgreSQL's processes stand still.", on="postgres")
def freeze_database_connections(ground: Ground) -> None:
    if ground.postgres is None:
        raise Skipped("there is no PostgreSQL")
    backends = [process for process in ground.postgres.processes[1:] if "postgres" in process.name()]
    freeze(ground.random.sample(backends, len(backends) // 2), FROZEN_SECONDS)
