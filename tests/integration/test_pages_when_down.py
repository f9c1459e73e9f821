"""A page says within three seconds that the broker or the database is down; it neither hangs nor shows a trace."""

import http.client
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import psutil
import pytest

from tasks_app.models import Entry
from tests.servers import Postgres, RabbitMQ, free_port, wait_for
from tests.system import Running, System

PASSWORD = "a password for this test"


def make_an_entry() -> None:
    Entry.objects.create(title="t", body="b")


@dataclass
class Visitor:
    """A browser without a screen: keeps cookies, and measures how long an answer takes."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    seconds: float = 0

    def ask(self, method: str, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        if form is not None:
            form = {**form, "csrfmiddlewaretoken": self.cookies["csrftoken"]}
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        started = time.monotonic()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, urllib.parse.urlencode(form or {}), headers)
            response = connection.getresponse()
            body = response.read().decode()
        self.seconds = time.monotonic() - started
        for cookie in response.headers.get_all("Set-Cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response.status, body

    def sign_in(self) -> None:
        self.ask("GET", "/login/")
        status, _ = self.ask("POST", "/login/", {"username": "admin", "password": PASSWORD})
        assert status == 302


@contextmanager
def web(system: System) -> Iterator[Visitor]:
    """The web server alone, and a visitor who has signed in."""
    port = free_port()
    system.manage("createsuperuser", "--noinput", "--username=admin", "--email=", DJANGO_SUPERUSER_PASSWORD=PASSWORD)
    with system.process("runserver", f"127.0.0.1:{port}", "--noreload") as server:
        visitor = Visitor(port)
        wait_for(lambda: answers(visitor, server), "the web server answers")
        visitor.sign_in()
        yield visitor


def answers(visitor: Visitor, server: Running) -> bool:
    assert server.alive(), server.output()
    try:
        return visitor.ask("GET", "/healthz")[0] == 200
    except OSError:
        return False


def says_that_the_broker_is_down(visitor: Visitor) -> None:
    for method, path in (("GET", "/system/"), ("POST", "/start/fibonacci/"), ("POST", "/entries/1/")):
        status, page = visitor.ask(method, path, {"n": "5", "count": "5"} if method == "POST" else None)
        assert status == 200
        assert "does not answer" in page, path
        assert "Traceback" not in page
        assert visitor.seconds < 3, path
    assert visitor.ask("GET", "/")[0] == 200


def test_no_broker_listens(system: System) -> None:
    scheme = "amqp://127.0.0.1:1//" if "CELERY_BROKER_URL" in system.environment else "redis://127.0.0.1:1/0"
    system.environment.update({"CELERY_BROKER_URL": scheme, "SECRET_KEY": "x" * 60})
    system.call(make_an_entry)
    with web(system) as visitor:
        says_that_the_broker_is_down(visitor)


def test_the_broker_is_frozen(system: System, request: pytest.FixtureRequest) -> None:
    system.call(make_an_entry)
    with web(system) as visitor:
        assert "does not answer" not in visitor.ask("GET", "/system/")[1]
        frozen = broker_processes(system, request)
        assert frozen
        for process in frozen:
            process.suspend()
        try:
            says_that_the_broker_is_down(visitor)
        finally:
            for process in frozen:
                process.resume()


def broker_processes(system: System, request: pytest.FixtureRequest) -> list[psutil.Process]:
    if "CELERY_BROKER_URL" in system.environment:
        rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
        return rabbitmq.processes
    return [p for p in psutil.process_iter() if f"unixsocket:{system.folder}" in " ".join(safe_cmdline(p))]


def safe_cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_the_database_is_down_or_frozen(
    make_system: Callable[[str], System], tmp_path_factory: pytest.TempPathFactory
) -> None:
    system = make_system("sqlite-valkey")  # with a PostgreSQL server of its own: the shared one must not be stopped
    server = Postgres(tmp_path_factory.mktemp("down"))
    system.environment.update({"DATABASE_URL": server.url(), "SECRET_KEY": "x" * 60})
    assert system.manage("migrate").returncode == 0
    with web(system) as visitor:
        members = server.processes
        for process in members:
            process.suspend()
        says_that_the_database_is_down(visitor)
        for process in members:
            with suppress(psutil.NoSuchProcess):  # the server may end a connection that was given up
                process.resume()
        assert visitor.ask("GET", "/")[0] == 200
        server.stop()
        says_that_the_database_is_down(visitor)


def says_that_the_database_is_down(visitor: Visitor) -> None:
    for path in ("/", "/system/", "/admin/"):
        status, page = visitor.ask("GET", path)
        assert status == 503
        assert "The database does not answer" in page
        assert "Traceback" not in page
        assert visitor.seconds < 3
