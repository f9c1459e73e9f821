"""The embedded broker: a Valkey server from its wheel, on a private unix socket, there for as long as it is used.

Every process that uses the broker holds a shared lock on one file. A process of its own (`server.py`) runs the server,
starts it again when it dies, and ends with it once nobody holds that lock any more. The kernel releases the lock of a
killed process, so nothing is left running by mistake, and nothing that is still used is ended.
"""

import fcntl
import hashlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import quote

from handbell.conf import conf
from handbell.errors import BrokerUnavailable

BROKER_START_SECONDS = 10.0
CALL_SECONDS = 2.0  # for a caller that only sends a message, and whose work is safe in the ledger
PACKAGE_FOLDER = Path(__file__).resolve().parents[2]  # where `-m handbell.…` is found
MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 bytes on Linux and 104 on macOS

logger = logging.getLogger(__name__)


class EmbeddedBroker:
    """The broker whose data lives in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._users_lock: int | None = None  # a descriptor: it stays open until the process ends
        self._locked_by = 0

    @property
    def socket_path(self) -> Path:
        """The server's socket: in `directory`, unless its path would be too long there."""
        path = self.directory / "valkey.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"broker-{os.getuid()}-{digest}" / "valkey.sock"

    @property
    def url(self) -> str:
        """The broker's URL, for Celery."""
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
        """Make sure that the broker runs for as long as this process does; start it if it does not run yet.

        Raises:
            BrokerUnavailable: it did not start within `seconds`, ten by default.
        """
        if self._users_lock is not None and self._locked_by == os.getpid():
            return
        self.hold()
        if self.answers() and self._has_server():
            return
        logger.info("No broker is configured (CELERY_BROKER_URL): the embedded one in %s is used.", self.directory)
        self._start_server()
        self.wait_until_it_answers(seconds or BROKER_START_SECONDS)

    def hold(self) -> None:
        """Count this process among the users, so that a server keeps running; this starts none."""
        self.prepare()
        lock = os.open(self.directory / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        self.release()  # a forked process has inherited its parent's file, and must have a lock of its own
        self._users_lock, self._locked_by = lock, os.getpid()

    def release(self) -> None:
        """Do not count among the users any longer."""
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None

    def prepare(self) -> None:
        """Make the folders, readable by their owner only.

        Raises:
            BrokerUnavailable: one cannot be made, or belongs to another user.
        """
        for folder in (self.directory, self.socket_path.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise BrokerUnavailable(
                    f"The embedded broker did not start: the folder {folder} cannot be made ({error.strerror}). "
                    "Set HANDBELL_DATA_DIR to a folder you may write to."
                ) from error
            if {folder.lstat().st_uid, folder.stat().st_uid} != {os.getuid()}:
                raise BrokerUnavailable(
                    f"The embedded broker did not start: {folder} belongs to another user. "
                    "Set HANDBELL_DATA_DIR to a folder of your own."
                )
            folder.chmod(0o700)

    def wait_until_it_answers(self, seconds: float) -> None:
        """Return once the server takes commands.

        Raises:
            BrokerUnavailable: it does not within `seconds`.
        """
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
        """The file with the output of the server and of the process that runs it."""
        return self.directory / "log"

    def server_command(self, *, stand_by: bool) -> list[str]:
        """The command that runs the server. If another process runs it, it waits with `stand_by`, and ends without."""
        flag = ["--stand-by"] if stand_by else []
        return [sys.executable, "-m", "handbell.embedded.server", os.fspath(self.directory), *flag]

    def _has_server(self) -> bool:
        with (self.directory / "server.lock").open("a") as lock:
            return not try_lock(lock)

    def _start_server(self) -> None:
        with self.log.open("a") as log:
            subprocess.run(  # it detaches itself at once
                [*self.server_command(stand_by=False), "--detach"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=PACKAGE_FOLDER,
                check=False,
            )


@cache
def _broker_in(directory: Path) -> EmbeddedBroker:
    return EmbeddedBroker(directory)


def embedded_broker() -> EmbeddedBroker:
    """The broker in the project's data folder."""
    return _broker_in(conf.DATA_DIR / "broker")


def try_lock(file: IO[str]) -> bool:
    """Lock a file for this process alone, if nobody else has locked it; whether it is locked now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
