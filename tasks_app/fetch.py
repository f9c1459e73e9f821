"""Fetching pages for tasks, from where fetch_guard.py allows.

It is asked where the connection is made, about every address that the host name resolves to, and the connection goes
to one of the very addresses that were checked, so a name that resolves differently a moment later gains nothing.
Redirects go through the same door. Size and total time are capped.
"""

import codecs
import http.client
import socket
import string
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote, urlsplit

from django.conf import settings

from tasks_app.fetch_guard import FetchRefused, allowed_addresses

_FAILURES = (OSError, http.client.HTTPException, ValueError, OverflowError)
_READ_BYTES = 64 * 1024
MAX_CONTENT_TYPE_CHARACTERS = 1000


def fetch_page(url: str) -> str:
    """The page at `url`, as text.

    Raises:
        FetchRefused: the address is not http(s) or not public, or the page is too large, too slow or not there.
    """
    deadline = _Deadline(settings.FETCH_TIMEOUT)
    try:
        with closing(deadline):
            return _read(url, deadline)
    except _FAILURES as error:
        what = f"could not be fetched: {error.reason if isinstance(error, urllib.error.URLError) else error}"
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            what = f"answered {error.code} {error.reason}"
        if deadline.over:
            what = f"took longer than {settings.FETCH_TIMEOUT} s"
        raise FetchRefused(f"{url} {what}.") from error


class _Deadline:
    """Breaks every connection it watches once the time is up, however slowly the other side keeps talking."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._break)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        self._timer.cancel()
        for connected in self._sockets:
            connected.close()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._end

    def left(self) -> float:
        """The seconds that are left.

        Raises:
            TimeoutError: there are none.
        """
        if self.over:
            raise TimeoutError("the time is up")
        return self._end - time.monotonic()

    def watch(self, connected: socket.socket) -> None:
        self._sockets.append(connected.dup())  # a second handle: TLS takes the first one over
        if self.over:
            self._break()

    def _break(self) -> None:
        for connected in self._sockets:
            with suppress(OSError):  # already closed
                connected.shutdown(socket.SHUT_RDWR)


def _read(url: str, deadline: _Deadline) -> str:
    if urlsplit(url).scheme not in {"http", "https"}:
        raise FetchRefused(f"{url} is not an http or https address.")
    request = urllib.request.Request(  # noqa: S310  (the scheme has just been checked)
        quote(url, safe=string.printable),
        headers={"User-Agent": "tasks_app", "Accept": "text/html,text/plain,*/*;q=0.1"},
    )
    limit = settings.FETCH_MAX_KB * 1024
    body = bytearray()
    with _opener(deadline).open(request, timeout=deadline.left()) as response:
        # Not read(), which trusts the sizes that the server names.
        while part := response.read1(_READ_BYTES):
            body += part
            if len(body) > limit:
                raise FetchRefused(f"{url} is larger than {settings.FETCH_MAX_KB} KiB. Raise FETCH_MAX_KB to fetch it.")
        deadline.left()  # a connection that was broken reads like one that has ended
        if response.length:
            raise http.client.IncompleteRead(bytes(body), response.length)
        return _decoded(bytes(body), _charset(response.headers))


def _charset(headers: http.client.HTTPMessage) -> str:
    """The charset that a page says it has. Reading a header of 64 KiB takes the standard library seconds."""
    if len(headers.get("Content-Type", "")) > MAX_CONTENT_TYPE_CHARACTERS:
        return "utf-8"
    return headers.get_content_charset() or "utf-8"


def _decoded(body: bytes, charset: str) -> str:
    try:
        # Punycode is for host names: what it does to a whole page takes hours.
        if codecs.lookup(charset).name != "punycode":
            return body.decode(charset, errors="replace")
    except (LookupError, ValueError):  # no charset, or none that pages are written in
        pass
    return body.decode("utf-8", errors="replace")


def _resolve(host: str, port: int, deadline: _Deadline) -> list[str]:
    """Every address of `host`. Looking a name up cannot be interrupted, so a thread does it and is left behind."""
    found: list[str] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except _FAILURES as error:
            failed.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(deadline.left())
    if failed or not found:
        raise FetchRefused(f"{host} could not be found: {failed[0] if failed else 'looking it up took too long'}.")
    return found


def _connect(deadline: _Deadline, address: tuple[str, int], path: str) -> socket.socket:
    host, port = address[0].lower(), address[1]
    if not 0 < port < 65536:  # the system's library would take the remainder
        raise FetchRefused(f"{host}:{port} is not an address: ports go from 1 to 65535.")
    failure: OSError | None = None
    for ip in allowed_addresses(host, port, path, _resolve(host, port, deadline)):
        try:
            connected = socket.create_connection((ip, port), deadline.left())
        except OSError as error:
            failure = error
        else:
            deadline.watch(connected)
            return connected
    assert failure is not None
    raise failure


def _opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """An opener whose every connection, also after a redirect, goes through `_connect`; no proxy, no file, no ftp."""

    def guarded(kind: type[http.client.HTTPConnection], path: str) -> Any:
        def connection(host: str, **kwargs: Any) -> http.client.HTTPConnection:
            made = kind(host, **kwargs)
            # http.client's own hook for this, as its proxies use it
            made._create_connection = lambda address, *args: _connect(deadline, address, path)  # type: ignore[attr-defined]  # noqa: SLF001
            return made

        return connection

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(guarded(http.client.HTTPConnection, req.selector), req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(guarded(http.client.HTTPSConnection, req.selector), req)

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: urllib.request.Request, fp: Any, *args: Any) -> urllib.request.Request | None:
            fp.close()  # or all of it would be read, however long it is
            return super().redirect_request(req, fp, *args)

    opener = urllib.request.OpenerDirector()
    for handler in (
        Http(),
        Https(),
        urllib.request.UnknownHandler(),
        Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
