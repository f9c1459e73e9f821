"""Celery's own integration tests, as published, pass against a worker of ours.

All of them on PostgreSQL with RabbitMQ, in three parts; on SQLite with Valkey those of tasks and of groups of chains.
`python -m tests.published.celery_suite` runs them against Celery itself, to compare.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.published.celery_suite import PARTS, migrate, suite_command, suite_environment
from tests.published.source import NotDownloaded, published_tests
from tests.servers import Valkey

MAX_SECONDS = 1700
#: How many pass at least in each part: fewer means that something was not collected, or skips itself.
MIN_PASSED = {"postgres-chords": 92, "postgres-canvas": 120, "postgres-others": 125, "sqlite-tasks": 60}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return published_tests("celery", tmp_path_factory.mktemp("celery"))
    except NotDownloaded as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@pytest.mark.timeout(MAX_SECONDS)
@pytest.mark.parametrize(
    "part",
    [pytest.param(part, marks=[pytest.mark.rabbitmq] if part.startswith("postgres") else []) for part in PARTS],
)
def test_celerys_own_tests_pass(part: str, unpacked: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    valkey = Valkey()
    request.addfinalizer(valkey.stop)
    database, broker = f"sqlite:///{tmp_path}/db.sqlite3", valkey.url()
    if part.startswith("postgres"):
        name = part.replace("-", "")
        database = request.getfixturevalue("postgres").create_database(name)
        broker = request.getfixturevalue("rabbitmq").create_vhost(name)
    environment = suite_environment("handbell", database, broker, valkey, tmp_path)
    migrate(environment, unpacked)

    command = suite_command(unpacked, PARTS[part])
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)

    failed = re.findall(r"^(?:FAILED|ERROR|SUBFAILED\S*) (.*)", done.stdout, re.MULTILINE)
    assert failed == [], done.stdout[-20_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout + done.stderr
    assert int(passed.group(1)) >= MIN_PASSED[part], done.stdout[-2_000:]
