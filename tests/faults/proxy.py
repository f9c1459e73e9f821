"""A network that can be made bad: a proxy between the system and one of its servers, in a thread of its own."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal

Mode = Literal["pass", "delay", "drop", "half-open", "split"]
CHUNK_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class Proxy:
    """Forwards connections to a port of its own to a server on a port or on a socket file, as `mode` says:

    pass: as they are. delay: each part of a message comes a fifth of a second late, more or less. drop: connections are
    reset at random, and every second new one at once. half-open: nothing is forwarded, and no connection is closed.
    split: what is sent is forwarded, and when the answer comes the connection is reset instead.
    """

    def __init__(self, server: int | str) -> None:
        self.server = server
        self.mode: Mode = "pass"
        self.random = random.Random(0)
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        listening = threading.Event()
        threading.Thread(target=self._run, args=(listening,), name=f"proxy-{server}", daemon=True).start()
        listening.wait(10)

    def set(self, mode: Mode) -> None:
        """Be bad from now on, or good again: then whatever was half open is reset, as by a peer that is back."""
        was, self.mode = self.mode, mode
        if mode == "pass" and was == "half-open":
            self.reset_all()

    def reset_all(self) -> None:
        """Reset every connection."""
        self._in_loop(self._reset_all)

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    def stop(self) -> None:
        self.reset_all()
        self._in_loop(self._loop.stop)

    def _in_loop(self, call: Callable[[], object]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(call)
        self._loop.call_soon_threadsafe(done.set)
        done.wait(5)

    def _run(self, listening: threading.Event) -> None:
        async def start() -> None:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port: int = server.sockets[0].getsockname()[1]
            listening.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "drop" and self.random.random() < 0.5:
            _reset(writer)
            return
        while self.mode == "half-open":  # the peer is not there to answer
            await asyncio.sleep(0.1)
        try:
            server = await (
                asyncio.open_unix_connection(self.server)
                if isinstance(self.server, str)
                else asyncio.open_connection("127.0.0.1", self.server)
            )
        except OSError:
            _reset(writer)
            return
        link = _Link(self, writer, server[1])
        self._links.add(link)
        try:
            await asyncio.gather(link.forward(reader, server[1], "out"), link.forward(server[0], writer, "back"))
        finally:
            self._links.discard(link)
            link.close()


class _Link:
    """One connection that is forwarded."""

    def __init__(self, proxy: Proxy, *writers: asyncio.StreamWriter) -> None:
        self.proxy, self.writers = proxy, writers

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                mode = self.proxy.mode
                if mode == "half-open":
                    continue
                if (mode == "split" and way == "back") or (mode == "drop" and self.proxy.random.random() < 0.02):
                    self.reset()
                    return
                if mode == "delay":
                    await asyncio.sleep(self.proxy.random.uniform(0.05, 0.3))
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        if self.proxy.mode != "half-open":
            self.close()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def reset(self) -> None:
        for writer in self.writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    end: socket.socket | None = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if end is not None and end.family != socket.AF_UNIX:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.close()
