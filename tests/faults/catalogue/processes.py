"""Processes that are killed: KILL, without a word."""

import time

import psutil

from tests.faults.faulting import Skipped, fault
from tests.faults.fleet import Member, kill, kill_group
from tests.faults.ground import LEASE_SECONDS, Ground
from tests.servers import wait_for

ABSENT_SECONDS = 45.0
DEADLY_SECONDS = 10.0
FORK_SERVER = "fork_server_main"  # in its command line


def pool_children(ground: Ground, *queues: str) -> list[psutil.Process]:
    return [child for member in ground.workers(*queues) if member.is_alive for child in member.process.children()]


def fork_servers(ground: Ground) -> list[psutil.Process]:
    children = [child for child in pool_children(ground, "isolated") if child.is_running()]
    found = [process for child in children for process in child.children()]
    alive = [process for process in found if process.status() != psutil.STATUS_ZOMBIE]  # nobody has asked after it yet
    return [process for process in alive if FORK_SERVER in " ".join(process.cmdline())]


@fault("A process of a pool is killed.", quick=True)
def kill_pool_child(ground: Ground) -> None:
    for queue in ("cpu", "serial"):
        child = ground.choose(pool_children(ground, queue))
        ground.record_hurt(child)
        kill(child)


@fault("Processes of workers die at random points: around statements, commits and messages.", quick=True)
def kill_at_random_points(ground: Ground) -> None:
    path = ground.control / "deaths"
    path.write_text("0.002")
    time.sleep(DEADLY_SECONDS)
    path.unlink()


@fault("A worker is killed with all its processes.", quick=True)
def kill_worker(ground: Ground) -> None:
    member = ground.choose([member for member in ground.workers() if member.is_alive])
    ground.record_hurt(member.process, *member.process.children(recursive=True))
    kill_group(member.process)


@fault("A worker's main process, which sweeps, is killed alone.")
def kill_worker_main(ground: Ground) -> None:
    member = ground.choose([member for member in ground.workers("cpu", "serial") if member.is_alive])
    ground.record_hurt(member.process, *member.process.children(recursive=True))
    kill(member.process)


@fault("The process that supervises launches is killed.")
def kill_supervisor(ground: Ground) -> None:
    supervisor = ground.choose([server.parent() for server in fork_servers(ground)])
    ground.record_hurt(supervisor, *supervisor.children(recursive=True))
    kill(supervisor)


@fault("A fork server is killed.")
def kill_fork_server(ground: Ground) -> None:
    server = ground.choose(fork_servers(ground))
    ground.record_hurt(server, *server.children(recursive=True))
    kill(server)


@fault("A beat is killed.")
def kill_beat(ground: Ground) -> None:
    kill_group(ground.choose(ground.fleet.named("beat")).process)


@fault("The web server is killed.")
def kill_web(ground: Ground) -> None:
    kill_group(ground.fleet["web"].process)
    wait_for(ground.web_answers, "the web server answers")


def far_worker(ground: Ground) -> Member:
    found = ground.fleet.named("far")
    if not found:
        raise Skipped("a process may have no namespace of pids of its own here")
    ground.fleet.wait_until_ready(["far"])  # it may be away
    return found[0]


@fault("A worker of another machine is killed, and does not come back for a long time.", quick=True)
def kill_far_worker(ground: Ground) -> None:
    member = far_worker(ground)
    processes = [member.process, *member.process.children(recursive=True)]
    ground.record_hurt(*processes)
    member.absent_until = time.monotonic() + ABSENT_SECONDS
    kill(*processes)
    time.sleep(3 * LEASE_SECONDS)


@fault("All workers are killed at once.")
def kill_all_workers(ground: Ground) -> None:
    members = [member for member in ground.workers() if member.is_alive]
    for member in members:
        ground.record_hurt(member.process, *member.process.children(recursive=True))
        kill_group(member.process)
    ground.fleet.wait_until_ready([member.name for member in members])
