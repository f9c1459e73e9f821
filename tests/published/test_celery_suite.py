"""Celery's own integration tests, as published, pass against a worker of ours.

All of them on PostgreSQL with RabbitMQ; on SQLite with Valkey those of tasks and of groups of chains.
`python -m tests.published.celery_suite` runs them against Celery itself, to compare.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.published.celery_suite import QUICK, migrate, suite_command, suite_environment
from tests.published.source import NotDownloaded, published_tests
from tests.servers import Valkey

MAX_SECONDS = 1700
#: How many pass at least: fewer means that something was not collected, or skips itself.
MIN_PASSED, MIN_QUICK_PASSED = 340, 60


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return published_tests("celery", tmp_path_factory.mktemp("celery"))
    except NotDownloaded as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@pytest.mark.timeout(MAX_SECONDS)
@pytest.mark.parametrize("column", ["sqlite-valkey", pytest.param("postgres-rabbitmq", marks=pytest.mark.rabbitmq)])
def test_celerys_own_tests_pass(column: str, unpacked: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    valkey = Valkey()
    request.addfinalizer(valkey.stop)
    database, broker, options = f"sqlite:///{tmp_path}/db.sqlite3", valkey.url(), QUICK
    if column == "postgres-rabbitmq":
        database = request.getfixturevalue("postgres").create_database("celery")
        broker, options = request.getfixturevalue("rabbitmq").create_vhost("celery"), []
    environment = suite_environment("handbell", database, broker, valkey, tmp_path)
    migrate(environment, unpacked)

    done = subprocess.run(
        suite_command(unpacked, options), cwd=unpacked, env=environment, capture_output=True, text=True, check=False
    )

    failed = re.findall(r"^(?:FAILED|ERROR|SUBFAILED\S*) (.*)", done.stdout, re.MULTILINE)
    assert failed == [], done.stdout[-20_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout + done.stderr
    assert int(passed.group(1)) >= (MIN_QUICK_PASSED if options else MIN_PASSED), done.stdout[-2_000:]
