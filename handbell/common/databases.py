"""The options of database connections that Handbell needs, wherever the project has not set others.

SQLite: readers never wait (WAL); a writer takes the write lock at BEGIN and waits for it up to `timeout` seconds,
instead of failing half-way when two transactions upgrade from reading to writing. PostgreSQL: a server that is cut off
is noticed; a connection that hears nothing for half a minute is given up.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.backends.signals import connection_created

from handbell.common.private_files import make_private, make_private_folder
from handbell.conf import conf

SQLITE_PRAGMAS = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;"
SQLITE_OPTIONS = {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": SQLITE_PRAGMAS}
POSTGRES_OPTIONS = {
    "connect_timeout": 2,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


def tune_databases() -> None:
    """Complete the options of the default database, for every connection that is made from now on."""
    settings: dict[str, Any] = connections.settings[DEFAULT_DB_ALIAS]
    options = recommended_options(settings)
    settings["OPTIONS"] = {**options, **settings.get("OPTIONS", {})}
    connection_created.connect(keep_private, dispatch_uid="handbell.keep_private")


def recommended_options(settings: dict[str, Any]) -> dict[str, Any]:
    engine = settings["ENGINE"]
    if engine.endswith("sqlite3"):
        return {} if _is_in_memory(settings) else SQLITE_OPTIONS
    return POSTGRES_OPTIONS if engine.endswith(("postgresql", "postgis")) else {}


def keep_private(connection: Any, **kwargs: Any) -> None:
    """Keep other users away from an SQLite database in HANDBELL_DATA_DIR. Files that SQLite adds get its mode."""
    file = Path(connection.settings_dict["NAME"] or "")
    if connection.vendor == "sqlite" and conf.DATA_DIR in file.parents:
        make_private_folder(conf.DATA_DIR)
        make_private(file, *(file.with_name(file.name + added) for added in ("-wal", "-shm")))


def _is_in_memory(settings: dict[str, Any]) -> bool:
    return ":memory:" in str(settings["NAME"]) or "mode=memory" in str(settings["NAME"])


class _WritersLock:
    """The lock of `writers_turn`; one that is held by a thread of the parent is none of a forked child's."""

    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        cls.lock = threading.Lock()


os.register_at_fork(after_in_child=_WritersLock.renew)


@contextmanager
def writers_turn() -> Iterator[None]:
    """For a transaction of one or two statements. On SQLite the threads of a process take turns in these: whoever
    finds the database locked sleeps, up to a tenth of a second at a time, and so threads would mostly sleep.
    """
    takes_turns = connection.vendor == "sqlite" and not connection.in_atomic_block
    with _WritersLock.lock if takes_turns else nullcontext():
        yield


@contextmanager
def durable_transaction() -> Iterator[None]:
    """A transaction whose commit waits until it is on the disk, whatever the database is set to: for claims of what
    must begin at most once. Within another transaction it is up to that one.
    """
    is_outermost = not connection.in_atomic_block
    if is_outermost and connection.vendor == "sqlite":
        with _fully_synchronous(), transaction.atomic():
            yield
        return
    with transaction.atomic():
        if is_outermost and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL synchronous_commit = on")
        yield


@contextmanager
def _fully_synchronous() -> Iterator[None]:
    """SQLite in WAL mode waits for the disk at each commit only if it is told so, outside of transactions."""
    with connection.cursor() as cursor:
        before = cursor.execute("PRAGMA synchronous").fetchone()[0]
        cursor.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            cursor.execute(f"PRAGMA synchronous = {int(before)}")
