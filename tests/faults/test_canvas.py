"""A chord of chains over a thousand pages, with members delivered twice, gives what it should."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from celery import chain, chord
from django.db import transaction
from django_celery_results.models import ChordCounter, TaskResult  # type: ignore[attr-defined]

from handbell.models import Call
from tasks_app.tasks import aggregate_results, find_frequency, scrape_url
from tests.plain import doubles
from tests.servers import wait_for
from tests.system import System

PAGES = 1_000


def count_words_on_all_pages(host: str) -> tuple[dict[str, int], int, int, int, int]:
    """Runs inside the system: the body's value, how many bodies and tasks have succeeded, how many rows are left."""
    members = (
        chain(scrape_url.s(f"http://{host}/{number}"), find_frequency.s(["the", "if"])) for number in range(PAGES)
    )
    with transaction.atomic():
        result = chord(members, aggregate_results.s()).delay()
        sent = list(Call.objects.order_by("id").values_list("task_id", flat=True))
        transaction.on_commit(doubles(sent[::100], 2))
    value = result.get(timeout=150)
    wait_for(lambda: not Call.objects.exists(), "no call waits any more")
    succeeded = TaskResult.objects.filter(status="SUCCESS")
    bodies = succeeded.filter(task_name=aggregate_results.name).count()
    return value, bodies, succeeded.count(), Call.objects.count(), ChordCounter.objects.count()


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"The cat, the dog, and if"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def pages() -> Iterator[str]:
    """The address of a web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_thousand_pages_are_counted_once_although_members_come_twice(system: System) -> None:
    with pages() as host:
        system.environment["FETCH_ALLOWED_HOSTS"] = host
        io, cpu = ("-Q", "io", "--pool=threads", "-c", "16", "-n", "io@%h"), ("-Q", "cpu", "-c", "2", "-n", "cpu@%h")
        with system.worker(*io, "--loglevel=WARNING"), system.worker(*cpu, "--loglevel=WARNING"):
            total, body, rows, calls, counters = system.call(count_words_on_all_pages, host, timeout=170)
    assert total == {"the": 2 * PAGES, "if": PAGES}
    assert (body, rows, calls, counters) == (1, 2 * PAGES + 1, 0, 0)
