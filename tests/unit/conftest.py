"""Fixtures: the embedded broker and what waits in it, users, and TCP servers that answer as a test tells them to."""

import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.contrib.auth.models import Permission, User
from django.db import connection

from handbell.common import broker
from handbell.embedded.broker import embedded_broker
from handbell.models import Call
from handbell.plain.batching import RUN_BATCH, batch_doorbell
from handbell.plain.message import Message as CallMessage
from tasks_app.queues import QUEUES
from tasks_app.workloads import fibonacci

Answer = Callable[[socket.socket], None]

current_app.loader.import_default_modules()
current_app.finalize()


@dataclass(frozen=True)
class Message:
    """A task as it waits in its queue."""

    queue: str
    task: str
    id: str
    args: list[Any]
    priority: int | None


Sent = Callable[[], list[Message]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The run on PostgreSQL is for what uses the database; everything else runs once, on SQLite."""
    if os.environ.get("TEST_DATABASE") != "postgres":
        return
    with_database = [item for item in items if uses_the_database(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(with_database)])
    items[:] = with_database


def uses_the_database(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker("django_db") is not None or bool({"db", "transactional_db"} & fixtures)


@pytest.fixture(autouse=True)
def _broker_answers() -> Iterator[None]:
    """No test is silent because of a broker that did not answer in another one."""
    broker._Backoff.until = 0.0
    yield
    broker._Backoff.until = 0.0


@pytest.fixture(scope="session")
def _broker_runs() -> Iterator[None]:
    embedded_broker().attach()
    yield
    embedded_broker().release()


@pytest.fixture
def sent(_broker_runs: None) -> Iterator[Callable[[], list[Message]]]:
    """Takes whatever waits in the queues of the embedded broker, once the test's transaction is as good as committed;
    nothing waits there before and after the test. In the place of a doorbell that rings for calls that share claims,
    these calls are taken.
    """
    take_all()
    known: set[int] = set()

    def take() -> list[Message]:
        commit()
        found: list[Message] = []
        for message in take_all():
            found += take_shared(message.queue, known) if message.task == RUN_BATCH else [message]
        return found

    yield take
    take_all()


def commit() -> None:
    """Do what was to be done after the commit of the test's own transaction, which never comes."""
    transaction: Any = connection
    if not all(block._from_testcase for block in transaction.atomic_blocks):
        return  # the test has begun one itself
    while transaction.run_on_commit:
        waiting, transaction.run_on_commit = transaction.run_on_commit, []
        for _, function, _ in waiting:
            function()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Producers take turns: the test's transaction is open in one thread only."""
    monkeypatch.setattr(fibonacci, "in_threads", in_turn)


def in_turn(number: int, send: Callable[[int], list[str]]) -> list[str]:
    return [task_id for index in range(number) for task_id in send(index)]


def take_shared(queue: str, known: set[int]) -> list[Message]:
    batch_doorbell(queue).answer()
    waiting = Call.objects.filter(queue=queue, is_shared=True, claimed_by="").order_by("-priority", "id")
    calls = dict(waiting.values_list("pk", "message"))
    requests = [CallMessage.from_json(text).request() for pk, text in calls.items() if pk not in known]
    known.update(calls)
    return [Message(queue, it["task"], it["id"], list(it["args"]), it["delivery_info"]["priority"]) for it in requests]


def take_all() -> list[Message]:
    taken = []
    with current_app.connection_for_read() as connection:
        channel: Any = connection.channel()
        for queue in QUEUES:
            while message := channel.basic_get(queue.name, no_ack=True):
                headers = message.headers
                args = json.loads(message.body)[0]
                priority = message.properties.get("priority")
                taken.append(Message(queue.name, headers["task"], headers["id"], args, priority))
    return taken


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    """Makes a user with these permissions, by their code names."""

    def make(name: str, *permissions: str) -> User:
        user = User.objects.create_user(name)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        assert user.user_permissions.count() == len(permissions)
        return user

    return make


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="u"))
    yield folder
    shutil.rmtree(folder)


@dataclass
class Server:
    """A TCP server on this machine; `requests` are the heads of what it was asked, `connections` counts who came."""

    host: str
    port: int
    requests: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def url(self, path: str = "/") -> str:
        return f"http://{self.address}{path}"


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test: `serve(answer, host, port)` calls `answer(connection)` after each head."""
    with ExitStack() as stack:
        yield lambda answer, host="127.0.0.1", port=0: stack.enter_context(serving(answer, host, port))


@contextmanager
def serving(answer: Answer, host: str, port: int) -> Iterator[Server]:
    with socket.create_server((host, port)) as listener:
        server = Server(host, listener.getsockname()[1])
        open_ones: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # the other side may leave at any time
                head = b""
                while b"\r\n\r\n" not in head and (part := connection.recv(4096)):
                    head += part
                if head:
                    server.requests.append(head.decode("latin-1"))
                    answer(connection)

        def accept() -> None:
            with suppress(OSError):  # the listener is shut down when the test has ended
                while True:
                    connection, _ = listener.accept()
                    server.connections += 1
                    open_ones.append(connection)
                    threads.append(threading.Thread(target=talk, args=(connection,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in open_ones:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def page(body: bytes | str, status: str = "200 OK", *headers: str, length: int | None = None) -> Answer:
    """An answer over HTTP; `length` is the Content-Length it claims, if not the true one."""
    content = body.encode() if isinstance(body, str) else body
    size = len(content) if length is None else length
    head = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return raw("\r\n".join(head).encode() + b"\r\n\r\n" + content)


def raw(data: bytes) -> Answer:
    return lambda connection: connection.sendall(data)


def redirect(location: str, status: str = "302 Found") -> Answer:
    return page("", status, f"Location: {location}")
