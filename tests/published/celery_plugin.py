"""A plugin for pytest: Celery's own integration tests, as published, get our app, and a worker of it in a process.

It takes the place of fixtures of theirs, and changes no test.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORKER_PROCESSES = 4
START_SECONDS, STOP_SECONDS = 60, 30


class AnyBackend(str):
    """The address of a result backend. Tests that would leave out all but the Redis one run with ours, too."""

    __slots__ = ()

    def startswith(self, prefix: Any, *where: Any) -> bool:
        return "redis" in prefix or super().startswith(prefix, *where)


@pytest.hookimpl(tryfirst=True)
def pytest_plugin_registered(plugin: Any) -> None:
    """Before pytest looks for the fixtures of their conftest.py."""
    if getattr(plugin, "__name__", "") == "t.integration.conftest":
        for fixture in (celery_session_app, celery_app, celery_session_worker, ZZZZ_set_app_current):
            setattr(plugin, fixture.__name__, fixture)


@pytest.fixture(scope="session")
def celery_session_app() -> Any:
    from tests.published.celery_app import app  # noqa: PLC0415  (it needs the settings)

    app.backend  # noqa: B018  (it is loaded now)
    app.conf.update(result_backend=AnyBackend(app.conf.result_backend))
    return app


@pytest.fixture
def celery_app(celery_session_app: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The same app for all tests, configured as each of them says for as long as it takes."""
    conf = celery_session_app.conf
    before = dict(conf.changes)
    for marker in request.node.iter_markers("celery"):
        conf.update(marker.kwargs)
    yield celery_session_app
    conf.changes.clear()
    conf.changes.update(before)
    celery_session_app.amqp.__dict__.pop("_event_dispatcher", None)


@pytest.fixture(autouse=True)
def ZZZZ_set_app_current(celery_session_app: Any) -> None:  # noqa: N802  (their name)
    celery_session_app.set_current()
    celery_session_app.set_default()


@pytest.fixture(scope="session")
def celery_session_worker(celery_session_app: Any) -> Iterator[Any]:
    from celery.utils.nodenames import anon_nodename  # noqa: PLC0415

    command = [sys.executable, "-m", "celery", "-A", "tests.published.celery_app", "worker", "-n", anon_nodename()]
    command += ["-Q", "celery", "-c", str(WORKER_PROCESSES), "-l", "INFO"]
    with Path(os.environ["PUBLISHED_FOLDER"], "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not celery_session_app.control.ping(timeout=1):
                assert worker.poll() is None, "the worker has ended"
                assert time.monotonic() < deadline, "the worker does not answer"
            yield worker
        finally:
            worker.terminate()
            try:
                worker.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
