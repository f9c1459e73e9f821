"""The embedded broker: a Valkey server from its wheel, on a private unix socket, there for as long as it is used.

Every process that uses the broker holds a shared lock on one file. A process of its own (`server.py`) runs the server,
starts it again when it dies, and ends with it once nobody holds that lock any more. The kernel releases the lock of a
killed process, so nothing is left running by mistake, and nothing that is still used is ended.
"""

import errno
import fcntl
import hashlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import quote

from handbell.common.private_files import make_private, make_private_folder
from handbell.conf import conf
from handbell.errors import BrokerUnavailable

BROKER_START_SECONDS = 10.0
START_AGAIN_SECONDS = 5.0  # between two attempts of a process to start a broker that is gone
REACH_SECONDS = 0.2
CALL_SECONDS = 2.0  # for a caller that only sends a message, and whose work is safe in the ledger
PACKAGE_FOLDER = Path(__file__).resolve().parents[2]  # where `-m handbell.…` is found
MAX_ANSWER_BYTES = 1024
MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 bytes on Linux and 104 on macOS

logger = logging.getLogger(__name__)


class EmbeddedBroker:
    """The broker whose data lives in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._users_lock: int | None = None  # a descriptor: it stays open until the process ends
        self._locked_by = 0
        self._start_again_at = 0.0

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
        return self._said().startswith("+PONG")

    def runs(self) -> bool:
        """Whether the server is there, even if it takes no commands because its disk is full."""
        return self._said().startswith(("+PONG", "-MISCONF"))

    def _said(self) -> str:
        """The first line that the server answers; "" if it does not."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(os.fspath(self.socket_path))
                client.sendall(b"PING\r\n")
                return client.recv(MAX_ANSWER_BYTES).decode(errors="replace").partition("\r")[0]
        except OSError:
            return ""

    def attach(self, seconds: float | None = None) -> None:
        """Make sure that the broker runs for as long as this process does; start it if it does not run yet.

        A process that has used it before starts it again if nobody else does, and raises nothing: whoever connects
        finds out whether it answers.

        Raises:
            BrokerUnavailable: it did not start within `seconds`, ten by default.
        """
        if self._users_lock is not None and self._locked_by == os.getpid():
            self._attach_again(seconds or BROKER_START_SECONDS)
            return
        self.hold()
        if self.runs() and self._has_server():
            return
        logger.info("No broker is configured (CELERY_BROKER_URL): the embedded one in %s is used.", self.directory)
        self._start_server()
        self.wait_until_it_answers(seconds or BROKER_START_SECONDS)

    def _attach_again(self, seconds: float) -> None:
        """After this process has used it: start the broker if both it and the process that runs it are gone, and count
        among its users again if its folder has been removed.
        """
        if self._is_reachable() and is_file_at(self._users_lock, self._users_lock_path):
            return
        with suppress(BrokerUnavailable):
            if not is_file_at(self._users_lock, self._users_lock_path):
                self.hold()
            if self._has_server() or time.monotonic() < self._start_again_at:
                return
            self._start_again_at = time.monotonic() + START_AGAIN_SECONDS
            logger.warning("The embedded broker in %s is gone; it is started again.", self.directory)
            self._start_server()
            self.wait_until_it_answers(seconds)

    def _is_reachable(self) -> bool:
        """Whether a server listens, even if it takes no commands now."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(REACH_SECONDS)
                client.connect(os.fspath(self.socket_path))
        except TimeoutError:
            return True  # it is too busy to accept
        except OSError as error:
            return error.errno == errno.EAGAIN
        return True

    @property
    def _users_lock_path(self) -> Path:
        return self.directory / "users.lock"

    def hold(self) -> None:
        """Count this process among the users, so that a server keeps running; this starts none."""
        self.prepare()
        lock = os.open(self._users_lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                make_private_folder(folder)
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
            make_private(self.log)
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


def is_file_at(descriptor: int | None, path: Path) -> bool:
    """Whether an open file is the one that has this path now: it may have been removed, and another be in its place."""
    try:
        return descriptor is not None and os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def try_lock(file: IO[str]) -> bool:
    """Lock a file for this process alone, if nobody else has locked it; whether it is locked now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
