"""Connections that something has left in the middle of a transaction, such as a soft time limit inside of `atomic()`.

A soft time limit may be raised between any two lines, so also in Django's own code that begins or ends a transaction.
Whatever ran on such a connection afterwards would never be committed.
"""

from collections.abc import Collection, Iterator
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from django.db import connections


def in_transactions() -> set[str]:
    """The aliases of the databases in whose transactions this thread is."""
    return {connection.alias for connection in connections.all(initialized_only=True) if connection.in_atomic_block}


def close_connections(but: Collection[str] = ()) -> None:
    """Close the connections to all databases `but` these, whatever their state. New ones are made when needed."""
    for connection in connections.all(initialized_only=True):
        if connection.alias not in but:
            _abandon(connection)


def close_left_open(but: Collection[str] = ()) -> None:
    """Close the connections that are in a transaction which nobody will end."""
    for connection in connections.all(initialized_only=True):
        if connection.alias not in but and _is_left_open(connection):
            _abandon(connection)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether a soft time limit was raised, and this error is that or has come of it."""
    return any(isinstance(cause, SoftTimeLimitExceeded) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_left_open(connection: Any) -> bool:
    raw = connection.connection
    if raw is None:
        return False
    if connection.in_atomic_block or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]:
        return True
    if connection.vendor == "sqlite":
        return bool(raw.in_transaction)
    return bool(connection.vendor == "postgresql" and raw.info.transaction_status)  # 0 is idle


def _abandon(connection: Any) -> None:
    connection.in_atomic_block = False  # otherwise Django waits with closing it until the block ends
    connection.savepoint_ids.clear()
    connection.close()
