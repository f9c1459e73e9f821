"""Databases that crash, forget, are full, slow, locked or read-only."""

import os
import shutil
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import psycopg2

from tests.faults.faulting import Skipped, fault
from tests.faults.ground import Ground
from tests.faults.proxy import Proxy
from tests.servers import Postgres, Replica


def postgres_of(ground: Ground) -> Postgres:
    if ground.postgres is None:
        raise Skipped("there is no PostgreSQL")
    return ground.postgres


def end_connections(postgres: Postgres) -> None:
    for pid in connections(postgres):
        postgres.execute(f"SELECT pg_terminate_backend({pid})")


def connections(postgres: Postgres) -> list[int]:
    """The processes that serve others than us."""
    others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
    return [pid for (pid,) in postgres.execute(f"SELECT pid FROM pg_stat_activity WHERE {others}")]


@fault("The database crashes, and is back at once.", on="postgres", may_begin_again=True, quick=True)
def crash_database(ground: Ground) -> None:
    """Its log is flushed every ten seconds, so what did not wait for the disk is gone."""
    postgres_of(ground).restart()


@fault("The database crashes, and is away for fifteen seconds.", on="postgres", may_begin_again=True)
def stop_database(ground: Ground) -> None:
    postgres = postgres_of(ground)
    postgres.crash()
    time.sleep(15)
    postgres.start()


@fault("The database does not wait for its disk, and crashes.", on="postgres", forgets=True)
def crash_forgetful_database(ground: Ground) -> None:
    """Calls are lost then, whatever anybody does; but nothing may begin twice that must not."""
    postgres = postgres_of(ground)
    postgres.execute("ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()")
    time.sleep(4)
    postgres.crash()
    postgres.start()
    postgres.execute("ALTER SYSTEM RESET synchronous_commit", "SELECT pg_reload_conf()")


@fault("The database fails over to a replica that is a second behind, and back.", on="postgres", forgets=True)
def promote_replica(ground: Ground) -> None:
    """What the replica has not received is lost, as with every replica that nobody waits for."""
    postgres, database = postgres_of(ground), ground.proxies["database"]
    link = Proxy(postgres.socket)
    replica = Replica(postgres, ground.folder / "replica", link.port)
    try:
        link.set("half-open")
        time.sleep(1)
        postgres.crash()
        replica.promote()
        database.server = replica.socket
        database.reset_all()
        time.sleep(10)
    finally:
        replica.stop()
        move_into_place(replica.folder, ground.disk / "postgres")
        postgres.start()
        database.server = postgres.socket
        database.reset_all()
        link.stop()


def move_into_place(replica: Path, primary: Path) -> None:
    """The data of the replica becomes that of the server that was there before, and its owner's."""
    owner = primary.stat()
    for old in primary.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for new in replica.iterdir():
        shutil.move(new, primary / new.name)
    replica.rmdir()
    for path in primary.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@fault("Connections to the database are cut, one after the other.", on="postgres", quick=True)
def cut_database_connections(ground: Ground) -> None:
    postgres = postgres_of(ground)
    for _ in range(60):
        if found := connections(postgres):
            postgres.execute(f"SELECT pg_terminate_backend({ground.choose(found)})")
        time.sleep(0.1)


@fault("The disk of the database is full.", may_begin_again=True)
def fill_disk(ground: Ground) -> None:
    if not ground.disk_is_limited:
        raise Skipped("mounting a small file system is not allowed here")
    ballast, block = ground.disk / "ballast", b"\0" * (1 << 20)
    try:
        end = time.monotonic() + 8
        with ballast.open("wb", buffering=0) as file:
            while time.monotonic() < end:
                try:
                    file.write(block)
                except OSError:
                    time.sleep(0.02)
    finally:
        ballast.unlink(missing_ok=True)
        if ground.postgres is not None:
            ground.postgres.start()


@fault("Statements are ended after a tenth of a second.", on="postgres")
def limit_statements(ground: Ground) -> None:
    """While a lock makes many of them take longer."""
    postgres = postgres_of(ground)
    postgres.execute("ALTER SYSTEM SET statement_timeout = '100ms'", "SELECT pg_reload_conf()")
    try:
        for _ in range(5):
            lock_table(postgres, ground.choose(TABLES), 0.5)
            time.sleep(1)
    finally:
        postgres.execute("SET statement_timeout = 0", "ALTER SYSTEM RESET statement_timeout", "SELECT pg_reload_conf()")


TABLES = (
    "handbell_call",
    "handbell_operation",
    "handbell_launch",
    "handbell_chunk",
    "django_celery_results_taskresult",
)


def lock_table(postgres: Postgres, table: str, seconds: float) -> None:
    connection = psycopg2.connect(postgres.url())
    try:
        with connection.cursor() as cursor, suppress(psycopg2.Error):
            cursor.execute("SET statement_timeout = 0")
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            time.sleep(seconds)
    finally:
        connection.close()


@fault("Somebody locks a table for ten seconds.", on="postgres", quick=True)
def lock_postgres_table(ground: Ground) -> None:
    lock_table(postgres_of(ground), ground.choose(TABLES), 10)


@fault("Somebody locks the database for ten seconds.", on="sqlite")
def lock_sqlite(ground: Ground) -> None:
    connection = sqlite3.connect(ground.system.folder / "db.sqlite3", timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    time.sleep(10)
    connection.rollback()
    connection.close()


@fault("The database is read-only for twenty seconds.", on="postgres")
def make_database_read_only(ground: Ground) -> None:
    postgres = postgres_of(ground)
    postgres.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        end_connections(postgres)
        time.sleep(20)
    finally:
        postgres.execute(
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )
