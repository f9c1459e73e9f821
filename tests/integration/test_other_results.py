"""Results of plain tasks in another backend: Celery's own semantics, with the ledger for what is serial or isolated."""

from pathlib import Path
from typing import Any

import pytest

from project.embedded import EmbeddedBroker
from tests.servers import Memcached
from tests.system import System

WORKER = ("-Q", "cpu,serial,isolated", "-c", "1", "--include=tests.plain,tests.launches")
PLAIN = """
from tests.plain import *
bad = fail.delay("because")
answer = [
    add.delay(1, 2).get(timeout=20),
    group(add.s(number, 1) for number in range(5)).delay().get(timeout=20),
    chord((add.s(number, 1) for number in range(5)), total.s()).delay().get(timeout=20),
    repr(bad.get(timeout=20, propagate=False)), bad.state, AsyncResult("nobody").state,
    TaskResult.objects.count(), Call.objects.count(),
]"""
IN_A_TRANSACTION = """
from tests.plain import *
with transaction.atomic():
    result = take.delay(0, {path!r}, "late")
    with current_app.producer_pool.acquire(block=True) as producer:  # sent at once, and run before what came before
        take.apply_async((0, {path!r}, "early"), producer=producer).get(timeout=20)
    answer = lines({path!r})
try:
    with transaction.atomic():
        take.delay(0, {path!r}, "undone")
        raise KeyError
except KeyError:
    answer += [result.get(timeout=20), add.delay(1, 1).get(timeout=20), *lines({path!r})[2:]]"""
IN_THE_LEDGER = """
from tasks_app.tasks import increment_value
from tests.launches import nothing
serial, isolated = increment_value.delay("visits"), nothing.delay(7)
answer = [serial.get(timeout=20), isolated.get(timeout=20)]
answer += [increment_value.AsyncResult(serial.id).state, nothing.AsyncResult(isolated.id).state]"""


def everything_works(system: System, backend: str, path: str) -> None:
    system.environment["CELERY_RESULT_BACKEND"] = backend
    with system.worker(*WORKER):
        assert ask(system, PLAIN) == [3, [1, 2, 3, 4, 5], 15, "ValueError('because')", "FAILURE", "PENDING", 0, 0]
        ran = ["began-early", "ended-early", "late", 2, "began-late", "ended-late"]
        assert ask(system, IN_A_TRANSACTION.format(path=path)) == ran
        assert ask(system, IN_THE_LEDGER) == [1, 7, "SUCCESS", "SUCCESS"]


def ask(system: System, code: str) -> Any:
    return system.python(code, 90)


@pytest.mark.memcached
def test_results_in_memcached(system: System, memcached: Memcached, tmp_path: Path) -> None:
    everything_works(system, memcached.url(), str(tmp_path / "ran"))


def test_results_in_the_embedded_valkey(sqlite_system: System, tmp_path: Path) -> None:
    everything_works(sqlite_system, EmbeddedBroker(sqlite_system.folder / "broker").url, str(tmp_path / "ran"))


def test_a_broker_that_is_down_is_said_to_the_caller(sqlite_system: System) -> None:
    """Nothing remembers the call, so nobody could send it later."""
    nobody = {"CELERY_BROKER_URL": "amqp://127.0.0.1:9/", "SECRET_KEY": "only for tests " * 4}
    sqlite_system.environment |= {**nobody, "CELERY_RESULT_BACKEND": "cache+memory://"}
    code = """
from tests.plain import *
from kombu.exceptions import OperationalError
answer = []
for together in (nullcontext(), transaction.atomic()):
    try:
        with together:
            add.delay(1, 1)
    except OperationalError:
        answer.append("refused")"""
    assert ask(sqlite_system, f"from contextlib import nullcontext\n{code}") == ["refused", "refused"]
