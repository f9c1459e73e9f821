"""What the supervisor and its fork server say to each other: one JSON object per line, over a socket.

The supervisor says "start" with orders, and "cancelled" or "stopped" with the numbers of launches to be ended. The fork
server says "ready" once, "started" with the numbers, pids and start times of launches, and "ended" with a report.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

MAX_PART_BYTES = 256 * 1024
_encode = json.JSONEncoder(separators=(",", ":")).encode  # unlike the ledger's, it takes a timeout of infinity


class LaunchOrder(NamedTuple):
    """A launch that is to be started, as it stands in the ledger. `timeout` and `grace` are in seconds."""

    id: int
    task_id: str
    task: str
    arguments: str
    timeout: float
    grace: float
    memory_mb: int


class LaunchReport(NamedTuple):
    """The outcome of a launch. `started_at` and `finished_at` are seconds since the epoch."""

    id: int
    status: str
    reason: str
    result: str | None
    traceback: str | None
    stdout: str
    stderr: str
    exit_code: int | None
    pid: int | None
    started_at: float
    finished_at: float


class Channel:
    """One end of the socket. Nothing here waits: what cannot be sent yet is kept and sent by `flush`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self.closed = False
        self._incoming = b""
        self._outgoing = bytearray()

    def send(self, kind: str, content: Any) -> None:
        """Have this message sent by the next `flush`."""
        self._outgoing += f"{_encode([kind, content])}\n".encode()

    def flush(self) -> bool:
        """Send what can be sent; whether something is left."""
        with suppress(BlockingIOError):
            try:
                while self._outgoing:
                    del self._outgoing[: self.socket.send(self._outgoing[:MAX_PART_BYTES])]
            except (BrokenPipeError, ConnectionError):
                self.closed = True
                self._outgoing.clear()
        return bool(self._outgoing)

    def receive(self) -> Iterator[tuple[str, Any]]:
        """The messages that are there; `closed` afterwards says whether the other side has ended."""
        parts = [self._incoming]
        with suppress(BlockingIOError):
            try:
                while part := self.socket.recv(MAX_PART_BYTES):
                    parts.append(part)
                self.closed = True
            except ConnectionError:
                self.closed = True
        *lines, self._incoming = b"".join(parts).split(b"\n")
        for line in lines:
            kind, content = json.loads(line)
            yield kind, content
