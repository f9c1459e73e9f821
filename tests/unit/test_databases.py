"""The options of database connections: Handbell completes what the project has not chosen."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections

from handbell.common.databases import (
    POSTGRES_OPTIONS,
    SQLITE_OPTIONS,
    recommended_options,
    tune_databases,
    writers_turn,
)

SQLITE = "django.db.backends.sqlite3"
POSTGRES = "django.db.backends.postgresql"


@pytest.mark.parametrize(
    ("engine", "name", "options"),
    [
        (SQLITE, "/folder/db.sqlite3", SQLITE_OPTIONS),
        (SQLITE, Path("/folder/db.sqlite3"), SQLITE_OPTIONS),
        (SQLITE, ":memory:", {}),
        (SQLITE, "file:memorydb_default?mode=memory&cache=shared", {}),
        (POSTGRES, "name", POSTGRES_OPTIONS),
        ("django.contrib.gis.db.backends.postgis", "name", POSTGRES_OPTIONS),
        ("django.db.backends.mysql", "name", {}),
    ],
)
def test_each_database_gets_the_options_that_it_needs(engine: str, name: object, options: dict[str, Any]) -> None:
    assert recommended_options({"ENGINE": engine, "NAME": name}) == options


@pytest.mark.django_db
def test_threads_take_turns_in_writing_to_sqlite_unless_a_transaction_is_open_already() -> None:
    entered, may_leave = threading.Event(), threading.Event()

    def write() -> None:
        with writers_turn():
            entered.set()
            assert may_leave.wait(30)

    first = threading.Thread(target=write)
    first.start()
    assert entered.wait(30)
    entered.clear()
    second = threading.Thread(target=write)
    second.start()
    is_alone = not entered.wait(0.2)
    with writers_turn():  # this test's transaction is open, and others may wait for that
        may_leave.set()
    first.join(30)
    second.join(30)

    assert is_alone == (connection.vendor == "sqlite")
    assert entered.is_set()


@pytest.fixture
def untuned(tmp_path: Path) -> Iterator[Any]:
    """The default database as `startproject` has it, in the place of the tests' own."""
    before = connections.settings["default"]
    connections.settings["default"] = {**before, "ENGINE": SQLITE, "NAME": tmp_path / "db.sqlite3", "OPTIONS": {}}
    yield connections.settings["default"]
    connections.settings["default"] = before


@pytest.mark.django_db
def test_an_untuned_sqlite_file_is_in_wal_mode_and_its_transactions_begin_with_the_write_lock(untuned: Any) -> None:
    tune_databases()
    made = connections.create_connection("default")
    with made.temporary_connection() as cursor:
        assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert cursor.execute("PRAGMA synchronous").fetchone() == (1,)
        assert cursor.execute("PRAGMA foreign_keys").fetchone() == (1,)
    assert made.transaction_mode == "IMMEDIATE"  # type: ignore[attr-defined]


def test_what_the_project_has_chosen_stays(untuned: Any) -> None:
    untuned["OPTIONS"] = {"timeout": 5, "mine": 1}
    tune_databases()

    assert untuned["OPTIONS"] == {**SQLITE_OPTIONS, "timeout": 5, "mine": 1}


def test_the_tests_own_database_is_tuned() -> None:
    chosen = POSTGRES_OPTIONS if connection.vendor == "postgresql" else SQLITE_OPTIONS

    assert chosen.items() <= connection.settings_dict["OPTIONS"].items()
