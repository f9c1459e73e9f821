"""A worker keeps its database connection from task to task, and replaces one that is broken."""

from collections.abc import Callable

import pytest

from tests.system import System

pytestmark = pytest.mark.rabbitmq


def test_connections_are_kept_and_broken_ones_are_replaced(make_system: Callable[[str], System]) -> None:
    system = make_system("postgres-rabbitmq")
    with system.worker("-Q", "serial", "-c", "1", "--include=tests.tasks"):
        first, again, after_error, after_kill = system.python("""
from django.db import connection
from tests.tasks import backend_pid, broken_statement
first, again = (backend_pid.delay().get(timeout=20) for _ in range(2))
broken_statement.delay().get(timeout=20, propagate=False)
after_error = backend_pid.delay().get(timeout=20)
connection.cursor().execute("SELECT pg_terminate_backend(%s)", [after_error])
after_kill = backend_pid.delay().get(timeout=20)
answer = [first, again, after_error, after_kill]""")
    assert first == again
    assert after_error != first
    assert after_kill != after_error
