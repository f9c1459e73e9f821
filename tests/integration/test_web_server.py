"""The web server of `handbell up`: slow clients keep nobody waiting, and what is in work when it stops is answered."""

import http.client
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import pytest

from tests.integration.test_default_forms import Browser
from tests.servers import wait_for
from tests.system import Running, System

SLOW_CLIENTS = 300
WEB_ONLY = ("--no-workers", "--no-beat", "--no-flower")
HEAD = b"POST /login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
#: How far a slow client is: it has said nothing, is in the middle of the head, or in the middle of a form.
BEGINNINGS = (b"", HEAD + b"X: ", HEAD + b"Cookie: csrftoken=" + b"a" * 32 + b"\r\nContent-Length: 90000\r\n\r\na")


def port_of(up: Running) -> int:
    return int(up.state()["web"].rpartition(":")[2])


@contextmanager
def slow_clients(port: int) -> Iterator[list[socket.socket]]:
    """Clients that send a byte a few times a second, for as long as the block takes."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(SLOW_CLIENTS)]
        for number, client in enumerate(clients):
            client.sendall(BEGINNINGS[number % len(BEGINNINGS)])
        done = threading.Event()

        def trickle() -> None:
            while not done.wait(0.2):
                for number, client in enumerate(clients):
                    if number % len(BEGINNINGS):
                        client.sendall(b"a")

        with ThreadPoolExecutor(1) as pool:
            trickling = pool.submit(trickle)
            try:
                yield clients
            finally:
                done.set()
                trickling.result()


@pytest.mark.core
def test_hundreds_of_slow_clients_keep_nobody_waiting(sqlite_system: System) -> None:
    with sqlite_system.up(*WEB_ONLY) as up, slow_clients(port_of(up)):
        browser = Browser(up.state()["web"])
        browser.get("/login/")
        for _ in range(20):
            started = time.monotonic()
            assert "Sign in" in browser.get("/login/")
            assert time.monotonic() - started < 1


def test_a_request_in_work_is_answered_when_the_server_stops(sqlite_system: System) -> None:
    with sqlite_system.up(*WEB_ONLY) as up, ThreadPoolExecutor(1) as pool:
        browser = Browser(up.state()["web"])
        browser.get("/login/")
        with closing(sqlite3.connect(sqlite_system.folder / "db.sqlite3", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")  # a failed attempt is written down, and has to wait
            answer = pool.submit(browser.post, "/login/", username="admin", password="wrong")
            web = up.child("handbell.management.web_server")
            wait_for(lambda: any(file.path.endswith("db.sqlite3") for file in web.open_files()), "it is in work")
            web.terminate()
            database.execute("ROLLBACK")
        assert "Please enter a correct username and password." in answer.result(20)


def test_whether_a_page_was_asked_for_over_https_is_what_the_proxy_says(sqlite_system: System) -> None:
    sqlite_system.environment["HTTPS"] = "yes"
    with sqlite_system.up(*WEB_ONLY) as up:
        for said, status in (("https", 200), ("http", 301)):
            with closing(http.client.HTTPConnection("127.0.0.1", port_of(up), timeout=10)) as connection:
                connection.request("GET", "/login/", headers={"X-Forwarded-Proto": said})
                assert connection.getresponse().status == status
