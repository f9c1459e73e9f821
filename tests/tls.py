"""TLS in front of a real server, with a certificate made for the test: the servers' wheels are built without it."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial

import trustme

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


@contextmanager
def tls_in_front_of(connect: Connect, certificate: trustme.LeafCert, *, postgres: bool = False) -> Iterator[int]:
    """The port on which the server that `connect` reaches is reached by TLS, for as long as the block takes.

    A client of PostgreSQL asks first, in plain text, whether there is TLS.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):  # what has ended; a client that does not trust us
            if postgres:
                await reader.readexactly(8)
                writer.write(b"S")
                await writer.start_tls(context)
            there_reader, there_writer = await connect()
            writers.append(there_writer)
            await asyncio.gather(pass_on(reader, there_writer), pass_on(there_reader, writer))

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if postgres else context)
        async with server:
            stopping = asyncio.Event()
            loop = asyncio.get_running_loop()
            started.set_result((server.sockets[0].getsockname()[1], partial(loop.call_soon_threadsafe, stopping.set)))
            await stopping.wait()
        for writer in writers:
            writer.transport.abort()  # to close it would wait for the other side

    writers: list[asyncio.StreamWriter] = []
    started: Future[tuple[int, Callable[[], object]]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    port, stop = started.result(10)
    try:
        yield port
    finally:
        stop()
        thread.join()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    finally:
        writer.close()
