"""The options of database connections that Handbell needs, wherever the project has not set others.

SQLite: readers never wait (WAL); a writer takes the write lock at BEGIN and waits for it up to `timeout` seconds,
instead of failing half-way when two transactions upgrade from reading to writing. PostgreSQL: a server that is cut off
is noticed; a connection that hears nothing for half a minute is given up.
"""

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

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


def recommended_options(settings: dict[str, Any]) -> dict[str, Any]:
    engine = settings["ENGINE"]
    if engine.endswith("sqlite3"):
        return {} if _is_in_memory(settings) else SQLITE_OPTIONS
    return POSTGRES_OPTIONS if engine.endswith(("postgresql", "postgis")) else {}


def _is_in_memory(settings: dict[str, Any]) -> bool:
    return ":memory:" in str(settings["NAME"]) or "mode=memory" in str(settings["NAME"])
