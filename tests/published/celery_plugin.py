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
from celery._state import _set_task_join_will_block  # type: ignore[attr-defined]

IN_PROCESS = (
    "It looks at signals, logs or the state of a worker in its own process; here the worker is another process."
)
OF_REDIS = "It looks at keys, channels or connections of Celery's Redis result backend."
#: Tests that cannot apply, or that stand for a difference, each with its reason: by the names in their ids.
NOT_APPLICABLE = {
    "test_task_received_has_access_to_stamps": IN_PROCESS,
    "test_linking_stamped_sig": IN_PROCESS,
    "test_err_linking_stamped_sig": IN_PROCESS,
    "test_hello_stamps_received_revoked_ids_locally": IN_PROCESS,
    "test_send_task_without_ignore_result_uses_task_ignore_result": IN_PROCESS,
    "test_send_task_without_ignore_result_stores_result": IN_PROCESS,
    "test_trace_log_arguments": IN_PROCESS,
    "test_retry_preserves_ignore_result_false": IN_PROCESS,
    "test_retry_preserves_ignore_result_true": IN_PROCESS,
    "test_replaced_task_nesting_level_0": IN_PROCESS,
    "test_replaced_task_nesting_level_1": IN_PROCESS,
    "test_replaced_task_nesting_chain": IN_PROCESS,
    "test_signal_bound_method_receivers": IN_PROCESS,
    "test_revoked_by_headers_simple_canvas": IN_PROCESS,
    "test_revoked_by_headers_complex_canvas": IN_PROCESS,
    "test_retry": "It counts in an attribute of the task, in the worker's one process; this worker has four.",
    "test_stats": "It expects a worker with one process; this one has four.",
    "test_chord_on_error": OF_REDIS,
    "test_redis_backend": OF_REDIS,
    "test_asyncresult_forget_cancels_subscription": OF_REDIS,
    "test_asyncresult_get_cancels_subscription": OF_REDIS,
}
#: Tests that fail with Handbell, and need not with Celery: the differences that docs/celery.md has at its top.
DIFFERENT = {
    "test_generator": "A chord's header that is a generator is read to its end before its first part is called.",
    "test_header_failure_fails_the_chords_after_it[2]": (
        "It looks at the state after the second of two failures, as soon as get() has raised the first."
    ),
    "test_chord_header_id_duplicated_on_rabbitmq_msg_duplication": "A message that comes twice runs its task once.",
}
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    left_out = NOT_APPLICABLE | (DIFFERENT if os.environ["PUBLISHED_APP"] == "handbell" else {})
    for item in items:
        parts = [Path(part).stem for part in item.nodeid.split("::")]
        names = {*parts, *(part.partition("[")[0] for part in parts)}
        for name in names & left_out.keys():
            item.add_marker(pytest.mark.skip(reason=left_out[name]))


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
    _set_task_join_will_block(False)  # workers that a test ran in this process have said that this is a task


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
