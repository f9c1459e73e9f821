"""A worker keeps its database connection from task to task, and replaces one that is broken."""

import time
from collections.abc import Callable

import pytest
from django.db import connection

from tests.plain import SECONDS
from tests.system import System
from tests.tasks import backend_pid, broken_statement

CONN_MAX_AGE = 1  # in tests/two_databases.py
pytestmark = pytest.mark.rabbitmq


def ask_for_its_server_process() -> int:
    return backend_pid.delay().get(timeout=SECONDS)


def break_a_statement() -> None:
    broken_statement.delay().get(timeout=SECONDS, propagate=False)


def end_server_process(pid: int) -> None:
    connection.cursor().execute("SELECT pg_terminate_backend(%s)", [pid])


def test_connections_are_kept_and_broken_ones_are_replaced(make_system: Callable[[str], System]) -> None:
    """Also with a `CONN_MAX_AGE`, which is for pages."""
    system = make_system("postgres-rabbitmq")
    system.environment["DJANGO_SETTINGS_MODULE"] = "tests.two_databases"
    with system.worker("-Q", "serial", "-c", "1", "--include=tests.tasks"):
        first = system.call(ask_for_its_server_process)
        time.sleep(CONN_MAX_AGE + 0.5)
        again = system.call(ask_for_its_server_process)
        system.call(break_a_statement)
        after_error = system.call(ask_for_its_server_process)
        system.call(end_server_process, after_error)
        after_kill = system.call(ask_for_its_server_process)
    assert first == again
    assert after_error != first
    assert after_kill != after_error
