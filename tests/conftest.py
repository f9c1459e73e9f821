"""Fixtures: a system in each column of what the project runs on."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import (
    GET_MEMCACHED,
    GET_PGBOUNCER,
    GET_RABBITMQ,
    HASTE,
    MEMCACHED,
    PGBOUNCER,
    Memcached,
    Postgres,
    RabbitMQ,
)
from tests.system import System, nothing_is_left

COLUMN_NAMES = ("sqlite-valkey", "postgres-rabbitmq")
COLUMNS = (COLUMN_NAMES[0], pytest.param(COLUMN_NAMES[1], marks=pytest.mark.rabbitmq))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS: dict[str, tuple[bool, str]] = {
    "rabbitmq": (RabbitMQ.is_installed(), GET_RABBITMQ),
    "memcached": (MEMCACHED is not None, GET_MEMCACHED),
    "pgbouncer": (PGBOUNCER is not None, GET_PGBOUNCER),
    "browser": (CHROMIUM is not None, "Chromium is missing: install it with `apt-get install chromium`."),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is missing skips a test on a laptop, and fails it in CI."""
    for marker, (there, get_it) in NEEDS.items():
        if item.get_closest_marker(marker) and not there:
            if os.environ.get("CI") == "true":
                pytest.fail(get_it, pytrace=False)
            pytest.skip(get_it)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"), *HASTE)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    yield server
    server.stop()


@pytest.fixture
def memcached() -> Iterator[Memcached]:
    server = Memcached()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an SQLite database with all migrations applied, to be copied."""
    system = System(tmp_path_factory.mktemp("migrated") / "var")
    assert system.manage("migrate").returncode == 0
    return system.folder / "db.sqlite3"


@pytest.fixture(scope="session")
def migrated_postgres(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> str:
    """The name of a PostgreSQL database with all migrations applied, to be copied."""
    environment = {"DATABASE_URL": postgres.create_database("migrated"), "SECRET_KEY": os.urandom(30).hex()}
    assert System(tmp_path_factory.mktemp("migrated") / "var", environment).manage("migrate").returncode == 0
    return "migrated"


@pytest.fixture(scope="session")
def make_system(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], System]]:
    """Makes a new system of the given column, with an empty database that is up to date."""

    def make(column: str) -> System:
        name = f"s{os.urandom(4).hex()}"
        folder = tmp_path_factory.mktemp(name) / "var"
        environment = {}
        if column == "postgres-rabbitmq":
            template = request.getfixturevalue("migrated_postgres")
            environment = {
                "DATABASE_URL": request.getfixturevalue("postgres").create_database(name, template),
                "CELERY_BROKER_URL": request.getfixturevalue("rabbitmq").create_vhost(name),
                "SECRET_KEY": os.urandom(30).hex(),
            }
        else:
            folder.mkdir()
            shutil.copy(request.getfixturevalue("migrated_sqlite"), folder)
        return System(folder, environment)

    yield make
    System.end_shell()


@pytest.fixture(params=COLUMNS)
def system(request: pytest.FixtureRequest, make_system: Callable[[str], System]) -> Iterator[System]:
    """A system of each column, and afterwards the proof that nothing of it is left running."""
    made = make_system(request.param)
    yield made
    nothing_is_left(made.folder)


@pytest.fixture
def sqlite_system(make_system: Callable[[str], System]) -> Iterator[System]:
    """A system of the default column, for what does not depend on the database or the broker."""
    made = make_system("sqlite-valkey")
    yield made
    nothing_is_left(made.folder)
