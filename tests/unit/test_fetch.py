"""Pages are fetched from public addresses only, whole or not at all, and within a time that nobody can stretch."""

import gzip
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest
from django.conf import LazySettings

from tasks_app import fetch_guard
from tasks_app.fetch import fetch_page
from tasks_app.fetch_guard import FetchRefused, is_public
from tests.servers import free_port, wait_for
from tests.unit.conftest import Server, page, raw, redirect

Serve = Callable[..., Server]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
MANY = 64 * 1024 * 1024

PUBLIC = (
    *("8.8.8.8", "1.1.1.1", "93.184.215.14", "151.101.1.69", "100.63.255.255", "100.128.0.1", "172.15.255.255"),
    *("172.32.0.1", "192.0.3.1", "198.17.255.255", "198.20.0.1", "223.255.255.254", "11.0.0.1", "169.253.255.255"),
    *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001::1", "::ffff:8.8.8.8", "2620:fe::fe"),
)
NOT_PUBLIC = (
    # this machine, this network, nobody
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "::1", "::"),
    # private and shared
    *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.127.255.255"),
    *("fc00::1", "fd00:ec2::254", "fec0::1", "100.100.100.200"),
    # link-local, with and without a zone
    *("169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fe80::1%1", "febf::1"),
    # to many
    *("224.0.0.1", "239.255.255.255", "255.255.255.255", "ff02::1", "ff0e::1"),
    # documentation, measurement, protocols, the future
    *("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1", "198.18.0.1", "198.19.255.255"),
    *("192.0.0.1", "192.0.0.8", "192.0.0.192", "240.0.0.1", "254.1.1.1", "100::1", "5f00::1", "4000::1", "2001:2::1"),
    # another address inside: mapped, compatible, translated, NAT64, 6to4 and its relays, Teredo
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "192.88.99.1"),
    *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    # the host below a machine at Azure
    "168.63.129.16",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_no_other_address_is_public(address: str) -> None:
    assert not is_public(address)


# --- The guard ---------------------------------------------------------------------------------------------------


@pytest.fixture
def allow(settings: LazySettings) -> Callable[..., None]:
    """Sets FETCH_ALLOWED_HOSTS."""

    def set_to(*names: str) -> None:
        settings.FETCH_ALLOWED_HOSTS = list(names)

    return set_to


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Host names that resolve as a test says: to a list of addresses, or to what a function returns.

    No other name is asked for on the network.
    """
    known: dict[str, Any] = {}
    really = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        if host not in known and host.rstrip(".").endswith((".org", ".example")):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = known.get(host, [host])
        addresses = found() if callable(found) else found
        return [info for address in addresses for info in really(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def test_this_machine_is_refused_and_not_even_connected_to(serve: Serve) -> None:
    server = serve(page("secret"))

    with pytest.raises(FetchRefused, match=rf"127\.0\.0\.1:{server.port} to FETCH_ALLOWED_HOSTS"):
        fetch_page(server.url())
    assert server.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001"),
        *("0x7f.1", "0177.0.0.1", "0", "0.0.0.0", "127.0.0.1.", "%31%32%37.0.0.1", "①②⑦.0.0.1"),
        *("127。0。0。1", "127.0.0.1%00.example.org"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::127.0.0.1]"),
        *("[fe80::1%25lo]", "[fe80::1%lo]", "[::1%25lo]"),
        *("example.org@127.0.0.1", "example.org:80@127.0.0.1", "example.org%40127.0.0.1", "127.0.0.1:80@example.org"),
    ],
)
def test_no_spelling_of_this_machine_gets_past_the_guard(host: str, serve: Serve) -> None:
    server = serve(page("secret"))

    with pytest.raises(FetchRefused):
        fetch_page(f"http://{host}:{server.port}/")
    assert server.connections == 0


@pytest.mark.parametrize(
    "host", ["{port}@127.0.0.1", "127.0.0.1:{port}#@example.org", "127.0.0.1:{port}\\@example.org"]
)
def test_a_name_before_an_at_sign_or_after_a_hash_does_not_fool_the_guard(host: str, serve: Serve) -> None:
    server = serve(page("secret"))

    with pytest.raises(FetchRefused):
        fetch_page(f"http://{host.format(port=server.port)}/")
    assert server.connections == 0


def test_an_allowed_host_is_fetched_by_name_and_by_name_and_port(
    serve: Serve, allow: Callable[..., None], names: dict[str, Any]
) -> None:
    server = serve(page("hello"))
    names["intranet"] = ["127.0.0.1"]
    for allowed in ("intranet", f"intranet:{server.port}", "INTRANET"):
        allow("example.org", allowed)
        assert fetch_page(f"http://intranet:{server.port}/") == "hello"
        assert fetch_page(f"http://IntraNet:{server.port}/") == "hello"


def test_an_allowed_port_does_not_allow_another_and_an_allowed_name_no_other_name(
    serve: Serve, allow: Callable[..., None], names: dict[str, Any]
) -> None:
    server, other = serve(page("hello")), serve(page("secret"))
    names["intranet"] = ["127.0.0.1"]
    allow(server.address)

    assert fetch_page(server.url()) == "hello"
    for url in (other.url(), f"http://intranet:{server.port}/", f"http://[::ffff:127.0.0.1]:{server.port}/"):
        with pytest.raises(FetchRefused, match="not a public address"):
            fetch_page(url)
    assert other.connections == 0


def test_an_allowed_name_before_an_at_sign_allows_nothing(
    serve: Serve, allow: Callable[..., None], names: dict[str, Any]
) -> None:
    server = serve(page("secret"))
    allow("allowed.example", f"allowed.example:{server.port}")
    for tricky in ("allowed.example@127.0.0.1", "allowed.example#@127.0.0.1", "allowed.example:80@127.0.0.1"):
        names[tricky] = ["127.0.0.1"]  # as a careless resolver might
        with pytest.raises(FetchRefused):
            fetch_page(f"http://{tricky}:{server.port}/")
    assert server.connections == 0


def test_a_name_with_one_public_and_one_private_address_is_refused(serve: Serve, names: dict[str, Any]) -> None:
    server = serve(page("secret"))
    for addresses in (["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1", "::ffff:127.0.0.1"]):
        names["mixed.example"] = addresses
        with pytest.raises(FetchRefused, match=r"mixed\.example is not a public address"):
            fetch_page(f"http://mixed.example:{server.port}/")
    assert server.connections == 0


def test_a_name_that_resolves_differently_a_moment_later_gains_nothing(
    serve: Serve, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 plays the public address; the same port of 127.0.0.1 is what must not be reached."""
    inside = serve(page("secret"))
    try:
        outside = serve(page("public"), "127.0.0.2", inside.port)
    except OSError:
        pytest.skip("this machine has no 127.0.0.2")
    monkeypatch.setattr(fetch_guard, "is_public", lambda address: address == outside.host)
    answers = iter(["127.0.0.2"] + ["127.0.0.1"] * 9)
    names["rebinding.example"] = lambda: [next(answers)]

    assert fetch_page(f"http://rebinding.example:{inside.port}/") == "public"
    assert inside.connections == 0
    with pytest.raises(FetchRefused, match="not a public address"):
        fetch_page(f"http://rebinding.example:{inside.port}/")


def test_an_address_that_refuses_is_followed_by_the_next(
    serve: Serve, allow: Callable[..., None], names: dict[str, Any]
) -> None:
    server = serve(page("hello"))
    names["two.example"] = ["::1", "127.0.0.1"]
    allow("two.example")

    assert fetch_page(f"http://two.example:{server.port}/") == "hello"


@pytest.mark.parametrize(
    "variable", ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
)
def test_proxies_in_the_environment_are_ignored(
    variable: str, serve: Serve, allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = serve(page("hello")), serve(page("from the proxy"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(variable, proxy.url())
    allow(server.address)

    assert fetch_page(server.url()) == "hello"
    assert proxy.connections == 0


# --- Redirects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_within_an_allowed_host_is_followed(serve: Serve, allow: Callable[..., None], status: str) -> None:
    def answer(connection: socket.socket) -> None:
        first = "/start" in server.requests[-1]
        (redirect("/end", status) if first else page("arrived"))(connection)

    server = serve(answer)
    allow(server.address)

    assert fetch_page(server.url("/start")) == "arrived"


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(serve: Serve, allow: Callable[..., None]) -> None:
    inside = serve(page("secret"))
    for location in (
        inside.url(),
        f"//{inside.address}/",
        f"http://localhost:{inside.port}/",
        "http://169.254.169.254/",
    ):
        server = serve(redirect(location))
        allow(server.address)
        with pytest.raises(FetchRefused, match="is not a public address"):
            fetch_page(server.url())
    assert inside.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        *("file:///etc/passwd", "ftp://127.0.0.1/", "FILE:/etc/passwd", "data:text/plain,hello", "gopher://127.0.0.1/"),
        *("http://", "http://[::1", "http:///etc/passwd", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", ""),
    ],
)
def test_a_redirect_to_anything_else_is_refused(serve: Serve, allow: Callable[..., None], location: str) -> None:
    server = serve(redirect(location))
    allow("127.0.0.1")

    with pytest.raises(FetchRefused):
        fetch_page(server.url())


def test_redirects_in_a_circle_end(serve: Serve, allow: Callable[..., None]) -> None:
    server = serve(redirect("/again"))
    allow(server.address)

    with pytest.raises(FetchRefused, match="infinite loop"):
        fetch_page(server.url())
    assert server.connections < 20


def test_the_body_of_a_redirect_is_not_read_however_long_it_is(serve: Serve, allow: Callable[..., None]) -> None:
    server = serve(lambda connection: endless(connection, b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", taken))
    taken: list[int] = []
    allow(server.address)

    with pytest.raises(FetchRefused, match="infinite loop"):
        fetch_page(server.url())
    wait_for(lambda: len(taken) == server.connections, "every answer has been given up", 5)
    assert max(taken) < MANY


# --- Size and time -----------------------------------------------------------------------------------------------


def endless(connection: socket.socket, head: bytes, taken: list[int]) -> None:
    """Send `head` and then as much as the other side takes, at most MANY bytes; note how many those were."""
    number, block = 0, b"x" * 65536
    with suppress(OSError):
        connection.sendall(head)
        while number < MANY:
            number += connection.send(block)
    taken.append(number)


@pytest.fixture
def small(settings: LazySettings, allow: Callable[..., None]) -> None:
    """Pages of at most one KiB, from this machine."""
    settings.FETCH_MAX_KB = 1
    allow("127.0.0.1", "127.0.0.2")


@pytest.fixture
def hasty(settings: LazySettings, allow: Callable[..., None]) -> None:
    """Pages from this machine, within a fifth of a second."""
    settings.FETCH_TIMEOUT = 0.2
    allow("127.0.0.1", "slow.example")


@pytest.mark.usefixtures("small")
def test_a_page_of_exactly_the_largest_size_is_fetched_and_no_larger_one(serve: Serve) -> None:
    assert fetch_page(serve(page("x" * 1024)).url()) == "x" * 1024
    with pytest.raises(FetchRefused, match=r"larger than 1 KiB\. Raise FETCH_MAX_KB"):
        fetch_page(serve(page("x" * 1025)).url())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"\r\n",
        HEAD + b"Content-Length: 5000000000\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-ffffffffff\r\n",
    ],
)
def test_a_page_without_end_is_given_up_early_whatever_size_it_claims(serve: Serve, head: bytes) -> None:
    taken: list[int] = []
    server = serve(lambda connection: endless(connection, head, taken))

    with pytest.raises(FetchRefused):
        fetch_page(server.url())
    wait_for(lambda: taken, "the server has noticed", 5)
    assert taken[0] < MANY


def test_a_body_in_chunks_is_put_together(serve: Serve, allow: Callable[..., None]) -> None:
    server = serve(raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"))
    allow(server.address)

    assert fetch_page(server.url()) == "abcdefg"


@pytest.mark.parametrize(
    "answer",
    [
        page("half", length=8),
        raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n8\r\nhalf"),
        raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        raw(b""),
        raw(b"\x16\x03\x01 not http at all\r\n\r\n"),
    ],
)
def test_half_a_page_is_no_page(serve: Serve, allow: Callable[..., None], answer: Any) -> None:
    server = serve(answer)
    allow(server.address)

    with pytest.raises(FetchRefused, match="could not be fetched"):
        fetch_page(server.url())


def drip(start: bytes, byte: bytes = b"x") -> Callable[[socket.socket], None]:
    """Send `start`, and then a byte every few hundredths of a second, for ever."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(byte)
            time.sleep(0.03)

    return answer


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "answer",
    [
        drip(HEAD + b"\r\n"),
        drip(HEAD + b"Content-Length: 900\r\n\r\n"),
        drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n300\r\n"),
        drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
        drip(HEAD + b"X-Long: "),
        drip(b""),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(b"HTTP/1.1 302 Found\r\nContent-Length: 900\r\nX-Long: "),
        lambda connection: connection.recv(1),
    ],
    ids=["body", "length", "chunk", "chunk size", "header", "status", "continue", "redirect", "silence"],
)
def test_the_time_is_capped_however_slowly_a_server_talks(serve: Serve, answer: Any) -> None:
    server = serve(answer)
    started = time.monotonic()

    with pytest.raises(FetchRefused, match=r"took longer than 0\.2 s"):
        fetch_page(server.url())
    assert 0.15 < time.monotonic() - started < 1.5


@pytest.mark.usefixtures("hasty")
def test_tls_with_a_server_that_says_nothing_is_given_up_in_time(serve: Serve) -> None:
    server = serve(lambda connection: None)
    started = time.monotonic()

    with pytest.raises(FetchRefused):
        fetch_page(server.url().replace("http", "https"))
    assert time.monotonic() - started < 1.5


@pytest.mark.usefixtures("hasty")
def test_a_lookup_that_hangs_is_given_up_in_time(names: dict[str, Any]) -> None:
    done = threading.Event()
    names["slow.example"] = lambda: done.wait(5) and ["127.0.0.1"]
    started = time.monotonic()

    # Which limit is reached first is up to a busy machine: that of the step, or that of the whole.
    with pytest.raises(FetchRefused, match=r"looking it up took too long|took longer than 0\.2 s"):
        fetch_page("http://slow.example/")
    assert time.monotonic() - started < 4
    done.set()


@pytest.mark.usefixtures("hasty")
def test_slow_steps_do_not_add_up_to_more_than_the_whole_time(serve: Serve, names: dict[str, Any]) -> None:
    """A redirect that comes late, to a name that resolves late, to a server that never ends."""
    target = serve(drip(HEAD + b"\r\n"))

    def late_redirect(connection: socket.socket) -> None:
        time.sleep(0.15)
        redirect(f"http://slow.example:{target.port}/")(connection)

    def late_address() -> list[str]:
        time.sleep(0.15)
        return ["127.0.0.1"]

    names["slow.example"] = late_address
    server = serve(late_redirect)
    started = time.monotonic()

    with pytest.raises(FetchRefused):
        fetch_page(server.url())
    assert time.monotonic() - started < 1.5


@pytest.mark.usefixtures("hasty")
def test_a_connection_that_is_made_too_late_is_broken_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(drip(HEAD + b"\r\n"))
    connect = socket.create_connection

    def late(*args: Any, **kwargs: Any) -> socket.socket:
        time.sleep(0.3)
        return connect(*args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", late)
    started = time.monotonic()

    with pytest.raises(FetchRefused, match=r"took longer than 0\.2 s"):
        fetch_page(server.url())
    assert time.monotonic() - started < 1.5


@pytest.mark.usefixtures("hasty")
def test_no_socket_and_no_thread_stays_behind(serve: Serve) -> None:
    good, bad, endless_one = serve(page("x")), serve(page("", "404 Not Found")), serve(drip(HEAD + b"\r\n"))
    own = psutil.Process()

    def connections() -> int:
        return len(
            [c for c in own.net_connections() if c.raddr and c.raddr.port in {good.port, bad.port, endless_one.port}]
        )

    fetch_page(good.url())
    kept = []  # as a log or a traceback might keep them
    for server in (bad, endless_one):
        with pytest.raises(FetchRefused) as caught:
            fetch_page(server.url())
        kept.append(caught)
    wait_for(lambda: connections() == 0, "all connections are closed", 5)
    wait_for(lambda: not any(isinstance(t, threading.Timer) for t in threading.enumerate()), "no timer waits", 5)


# --- Answers and addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["404 Not Found", "500 Server Error", "403 Forbidden", "304 Not Modified"])
def test_an_error_is_named(serve: Serve, allow: Callable[..., None], status: str) -> None:
    server = serve(page("sorry", status))
    allow(server.address)

    with pytest.raises(FetchRefused, match=f"answered {status}"):
        fetch_page(server.url())


def test_a_server_that_is_not_there_is_named(allow: Callable[..., None]) -> None:
    allow("127.0.0.1")

    with pytest.raises(FetchRefused, match=r"could not be fetched: .*refused"):
        fetch_page(f"http://127.0.0.1:{free_port()}/")


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/html; charset=iso-8859-1", b"caf\xe9", "café"),
        ("text/html; charset=UTF-8", "café €".encode(), "café €"),
        ("text/html", "café €".encode(), "café €"),
        ("text/html; charset=utf-16", "café".encode("utf-16"), "café"),
        ("text/html; charset=utf-8", b"caf\xe9!", "caf\ufffd!"),
        *(
            (f"text/html; charset={charset}", "café".encode(), "café")
            for charset in (
                "nonsense",
                "hex",
                "zlib",
                "rot13",
                "idna",
                "undefined",
                "punycode",
                "aliases",
                "..",
                "ü",
                "",
            )
        ),
    ],
)
def test_a_page_is_read_in_its_charset_and_as_utf_8_if_it_has_none_that_fits(
    serve: Serve, allow: Callable[..., None], content_type: str, body: bytes, text: str
) -> None:
    server = serve(page(body, "200 OK", f"Content-Type: {content_type}"))
    allow(server.address)

    assert fetch_page(server.url()) == text


def test_a_long_content_type_takes_no_time(serve: Serve, allow: Callable[..., None]) -> None:
    """The standard library takes seconds to read this one."""
    server = serve(page(b"abc", "200 OK", f"Content-Type: text/html;{'a;' * 32_000}"))
    allow(server.address)
    started = time.process_time()

    assert fetch_page(server.url()) == "abc"
    assert time.process_time() - started < 0.5


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_compressed_page_is_not_unpacked(serve: Serve, coding: str) -> None:
    """A few bytes may stand for gigabytes. Nobody has asked for a compressed page."""
    bomb = gzip.compress(b"x" * 500_000)
    assert len(bomb) < 1024

    assert len(fetch_page(serve(page(bomb, "200 OK", f"Content-Encoding: {coding}")).url())) <= len(bomb)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (b"X: y\r\n" * 101, "more than 100 headers"),
        (b"X: " + b"y" * 70_000 + b"\r\n", "more than 65536 bytes"),
    ],
    ids=["many", "long"],
)
def test_headers_have_limits(serve: Serve, allow: Callable[..., None], headers: bytes, reason: str) -> None:
    server = serve(raw(HEAD + headers + b"\r\nabc"))
    allow(server.address)
    with pytest.raises(FetchRefused, match=reason):
        fetch_page(server.url())


def test_no_charset_makes_reading_a_page_slow(serve: Serve, allow: Callable[..., None]) -> None:
    server = serve(page(b"a-" + b"b9" * 500_000, "200 OK", "Content-Type: text/html; charset=punycode"))
    allow(server.address)
    started = time.monotonic()

    assert len(fetch_page(server.url())) == 1_000_002
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "url",
    [
        *("", "nonsense", "example.org", "//example.org/", "javascript:alert(1)", "http", "http:", "http:/", "http://"),
        *("file:///etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/", "url:file:///etc/passwd", "ws://127.0.0.1/"),
        *("http://[::1", "http://]/", "http://:80/", "http:///path", "http://user@/", "http://.", "http://a..b/"),
        *("http://127.0.0.1:port/", "http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http://127.0.0.1:0/"),
        *("http://127.0.0.1:80:80/", "http://" + "a" * 64 + ".example/", "http://" + "a." * 200 + "example/"),
        *("http://exa mple.org/", "http://\udcff/", "http://\x00/", "http://127.0.0.1\t:80/", "http://-/"),
        *("http://user:password@127.0.0.1/", "http://127.0.0.1:80@example.org/", "http://⑫⑦.example:⑧/"),
    ],
)
def test_what_is_no_address_is_refused_in_a_sentence(url: str, allow: Callable[..., None]) -> None:
    allow("127.0.0.1")

    with pytest.raises(FetchRefused, match=r"\.$"):
        fetch_page(url)


@pytest.mark.parametrize("scheme", ["file", "FILE", "ftp", "data", "gopher", "javascript", "HTTPX"])
def test_a_scheme_other_than_http_and_https_is_named_as_the_reason(scheme: str) -> None:
    with pytest.raises(FetchRefused, match=f"^{scheme}://127.0.0.1/ is not an http or https address"):
        fetch_page(f"{scheme}://127.0.0.1/")


def test_a_port_out_of_range_is_not_taken_for_its_remainder(serve: Serve, allow: Callable[..., None]) -> None:
    server = serve(page("hello"))
    target = f"http://127.0.0.1:{server.port + 65536}/"
    allow("127.0.0.1")

    for url in (target, serve(redirect(target)).url()):
        with pytest.raises(FetchRefused, match="ports go from 1 to 65535"):
            fetch_page(url)
    assert server.connections == 0


@pytest.mark.parametrize(
    "path", ["/a b", "/a\r\nX-Injected: 1", "/a\nX-Injected: 1", "/a\tb", "/ HTTP/1.1\r\nX-Injected: 1"]
)
def test_a_space_or_a_line_break_cannot_add_to_the_request(serve: Serve, allow: Callable[..., None], path: str) -> None:
    server = serve(page("hello"))
    allow(server.address)

    with pytest.raises(FetchRefused):
        fetch_page(server.url(path))
    assert server.requests == []


def test_a_line_break_in_the_host_cannot_add_to_the_request(serve: Serve, allow: Callable[..., None]) -> None:
    server = serve(page("hello"))
    allow("127.0.0.1", server.address)

    for host in (
        f"{server.address}\r\nX-Injected: 1",
        f"{server.address}%0d%0aX-Injected:%201",
        f"127.0.0.1\r\n:{server.port}",
    ):
        with pytest.raises(FetchRefused):
            fetch_page(f"http://{host}/")
    assert not any("Injected" in request for request in server.requests)


def test_letters_beyond_ascii_are_sent_as_browsers_send_them(serve: Serve, allow: Callable[..., None]) -> None:
    server = serve(page("hello"))
    allow(server.address)

    assert fetch_page(server.url("/café?q=ü%20x#part")) == "hello"
    assert server.requests[0].startswith("GET /caf%C3%A9?q=%C3%BC%20x HTTP/1.1\r\n")


def test_the_request_says_who_asks(serve: Serve, allow: Callable[..., None]) -> None:
    server = serve(page("hello"))
    allow(server.address)
    fetch_page(server.url())

    assert f"Host: {server.address}\r\n" in server.requests[0]
    assert "User-Agent: tasks_app\r\n" in server.requests[0]
