"""A chord of chains over a thousand pages, with members delivered twice, gives what it should."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.system import System

PAGES = 1_000


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
            total, body, rows, calls, counters = system.python(
                f"""
from tests.plain import *
from tasks_app.tasks import aggregate_results, find_frequency, scrape_url
pages = (chain(scrape_url.s("http://{host}/%d" % number), find_frequency.s(["the", "if"])) for number in range({PAGES}))
with transaction.atomic():
    result = chord(pages, aggregate_results.s()).delay()
    sent = list(Call.objects.order_by("id").values_list("task_id", flat=True))
    transaction.on_commit(again(sent[::100], 2))
value = result.get(timeout=150)
until(lambda: not Call.objects.exists())
done = TaskResult.objects.filter(status="SUCCESS")
answer = [value, done.filter(task_name__endswith="aggregate_results").count(), done.count(), Call.objects.count(),
          ChordCounter.objects.count()]""",
                170,
            )
    assert total == {"the": 2 * PAGES, "if": PAGES}
    assert (body, rows, calls, counters) == (1, 2 * PAGES + 1, 0, 0)
