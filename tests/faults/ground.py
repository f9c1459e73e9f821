"""The ground that faults are injected on: a whole system with servers of its own, its load, and its observer."""

import os
import random
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from handbell.embedded.broker import EmbeddedBroker
from tests.faults.fleet import Fleet, Member
from tests.faults.history import FOLDER_VARIABLE, History
from tests.faults.proxy import Proxy
from tests.servers import HASTE, DurableValkey, Postgres, RabbitMQ, free_port, valkey_command, wait_for
from tests.system import MANAGE, System

SYSTEMS = ("postgres-rabbitmq", "postgres-valkey", "sqlite-valkey")
LEASE_SECONDS, IDLE_SECONDS = 3, 3
DISK_MB = 1024
POSTGRES = ("max_connections = 300", "wal_writer_delay = 10s", "max_wal_size = 64MB", "min_wal_size = 32MB")


class Skipped(Exception):
    """This fault cannot be injected here; the message says why."""


@dataclass
class Ground:
    """A system that runs, and what faults need to know of it.

    `disk` is the file system that the database is on; `control` a folder that hooks in its processes read.
    """

    name: str
    folder: Path
    system: System
    fleet: Fleet
    history: History
    random: random.Random
    disk: Path
    control: Path
    web_port: int = field(default_factory=free_port)
    postgres: Postgres | None = None
    rabbitmq: RabbitMQ | None = None
    valkey: DurableValkey | None = None
    embedded: EmbeddedBroker | None = None
    proxies: dict[str, Proxy] = field(default_factory=dict)

    @property
    def disk_is_limited(self) -> bool:
        return self.disk.is_mount()

    def web_answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}/healthz", timeout=2).close()
        except OSError:
            return False
        return True

    def workers(self, *queues: str) -> list[Member]:
        return self.fleet.named(*(f"worker-{queue}" for queue in queues or [""]))

    def choose(self, things: Sequence[Any]) -> Any:
        if not things:
            raise Skipped("there was nothing to choose from")
        return self.random.choice(things)

    def valkey_command(self, *words: str) -> str:
        address = str(self.embedded.socket_path) if self.embedded else self.valkey and self.valkey.port
        if not address:
            raise Skipped("the broker is not Valkey")
        return valkey_command(address, *words)

    def ask(self, call: str) -> Any:
        """What a function of one of these modules returns, called in the system."""
        return self.system.python(f"from tests.faults import observe, poisonous, rubbish; answer = {call}", timeout=120)

    def restart(self, member: Member, **environment: str) -> None:
        """Stop a member politely, and start it again with this added to its environment."""
        self.record_hurt(member.process, *member.process.children(recursive=True))
        self.fleet.restart(member, **environment)

    def record_hurt(self, *processes: psutil.Process) -> None:
        """Write that something is done to these processes, so that others may take over what they have begun."""
        self.history.write("hurt", pids=[pid for process in processes for pid in pids_of(process)])


@contextmanager
def running(name: str, folder: Path, seed: int, **environment: str) -> Iterator[Ground]:
    """The system of this name, until the block ends; everything that it wrote is in `folder`."""
    with ExitStack() as stack:
        ground = _make(name, folder, seed, stack)
        ground.system.environment |= environment
        stack.callback(_end_what_is_left, ground)
        stack.callback(System.end_shell)
        stack.callback(ground.fleet.stop)
        done = ground.system.manage("migrate", timeout=240)
        assert done.returncode == 0, done.stderr
        ground.ask("observe.prepare()")
        ground.fleet.add(*_members(ground))
        ground.fleet.wait_until_ready()
        wait_for(ground.web_answers, "the web server answers", 60)
        yield ground


def _make(name: str, folder: Path, seed: int, stack: ExitStack) -> Ground:
    for part in ("history", "control", "logs", "disk"):
        (folder / part).mkdir(parents=True)
    disk = _limited_disk(folder / "disk", stack)
    database, broker = name.split("-")
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
        "SECRET_KEY": os.urandom(30).hex(),
        "HANDBELL_LEASE_SECONDS": str(LEASE_SECONDS),
        "HANDBELL_SERIAL_IDLE_SECONDS": str(IDLE_SECONDS),
        "FAULTS_CONTROL": str(folder / "control"),
        FOLDER_VARIABLE: str(folder / "history"),
    }
    system = System(disk / "var", environment)
    history = History(folder / "history")
    fleet = Fleet(system, folder / "logs")
    ground = Ground(name, folder, system, fleet, history, random.Random(seed), disk, folder / "control")
    if database == "postgres":
        ground.postgres = Postgres(disk / "postgres", *HASTE, *POSTGRES)
        stack.callback(ground.postgres.stop)
        proxy = ground.proxies["database"] = Proxy(ground.postgres.socket)
        stack.callback(proxy.stop)
        environment["DATABASE_URL"] = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
    if name == "sqlite-valkey":
        ground.embedded = EmbeddedBroker(disk / "var" / "broker")
        return ground
    if broker == "rabbitmq":
        ground.rabbitmq = RabbitMQ(folder / "rabbitmq")
    else:
        ground.valkey = DurableValkey(folder / "valkey")
    server = ground.rabbitmq or ground.valkey
    assert server is not None
    stack.callback(server.stop)
    proxy = ground.proxies["broker"] = Proxy(server.port)
    stack.callback(proxy.stop)
    environment["CELERY_BROKER_URL"] = server.url().replace(f":{server.port}/", f":{proxy.port}/")
    return ground


def _limited_disk(folder: Path, stack: ExitStack) -> Path:
    """Mount a small file system on the folder, where that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "tmpfs", str(folder)]
    if shutil.which("mount") and subprocess.run(command, check=False, capture_output=True).returncode == 0:
        stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
    return folder


def _members(ground: Ground) -> list[Member]:
    port = ground.web_port
    web = [sys.executable, "-m", "handbell.management.web_server", "127.0.0.1", str(port), "project.wsgi.application"]
    direct = {"DATABASE_URL": ground.postgres.url()} if ground.postgres else {}
    return [
        _worker("serial-1", "serial", "--concurrency=1"),
        _worker("serial-2", "serial", "--concurrency=2"),
        _worker("cpu-1", "cpu,high", "--concurrency=2"),
        _worker("cpu-2", "cpu,high", "--concurrency=2"),
        _worker("io-1", "io,cpu", "--pool=threads", "--concurrency=3"),
        _worker("isolated-1", "isolated", "--concurrency=2"),
        _worker("isolated-2", "isolated", "--concurrency=2"),
        *_far_worker(),
        *(_beat(f"beat-{number}") for number in (1, 2)),
        Member("web", web, ""),  # it says nothing: see `web_answers`
        *(_python(f"load-{n}", "load", f"'l{n}', 'http://127.0.0.1:{port}'", {}) for n in (1, 2)),
        _python("observer", "observe", "", direct),
    ]


def pids_of(process: psutil.Process) -> set[int]:
    """The pid of a process, and that by which it knows itself, if it has a namespace of pids of its own."""
    try:
        (line,) = re.findall(r"^NSpid:(.*)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return {process.pid}
    return {process.pid, int(line.split()[-1])}


def _far_worker() -> list[Member]:
    """A worker that the others cannot see the processes of, as if it were on another machine."""
    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        return []
    worker = _worker("far", "cpu,high,serial", "--concurrency=2")
    return [Member("far", [*apart, *worker.command], worker.ready)]


def _worker(name: str, queues: str, *options: str) -> Member:
    hostname = f"--hostname={name}@%h"
    return Member(
        f"worker-{name}",
        [*MANAGE, "celery", "worker", "--without-gossip", "--without-mingle", f"--queues={queues}", hostname, *options],
        " ready.",
    )


def _beat(name: str) -> Member:
    return Member(name, [*MANAGE, "celery", "beat", "--pidfile="], "beat: Starting")


def _python(name: str, module: str, arguments: str, environment: dict[str, str]) -> Member:
    code = f"from tests.faults.{module} import main; main({arguments})"
    return Member(name, [*MANAGE, "shell", "--no-imports", "-v0", "-c", code], "ready.", environment)


def _end_what_is_left(ground: Ground) -> None:
    """Orphans of workers that were killed, and the embedded broker, which ends by itself once nobody uses it."""
    for process in left_running(ground):
        process.kill()


def left_running(ground: Ground) -> list[psutil.Process]:
    """The processes of the system that run still."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(FOLDER_VARIABLE) == str(ground.folder / "history"):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()]
