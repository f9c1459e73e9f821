"""Queries on django-celery-results' table, which holds the states and results of plain tasks, and what its rows say."""

import json
from itertools import pairwise
from typing import Any

from django.db import connection
from django.db.models import Q

from handbell import states

#: Columns that lists leave out.
LARGE_RESULT_COLUMNS = ("task_args", "task_kwargs", "result", "traceback")


#: The rows of tasks that have ended.
ENDED = Q(status__in=sorted(state for word in states.FINISHED for state in states.CELERY_STATES.get(word, ())))


def in_state(word: str) -> Q:
    """The rows in this state of ours, through the index on `status`.

    A task's own custom state counts as running: whatever lies between the states that Celery knows.
    """
    if word != states.RUNNING:
        return Q(status__in=states.CELERY_STATES[word])
    others = sorted(state for other, of in states.CELERY_STATES.items() if other != states.RUNNING for state in of)
    between = Q(status__lt=others[0]) | Q(status__gt=others[-1])
    for before, after in pairwise(others):
        between |= Q(status__gt=before, status__lt=after)
    return between


def begins_with(field: str, text: str) -> Q:
    """A prefix, as it is written or in the small letters of Celery's own ids.

    The index on `field` serves it: SQLite's does so for a range, PostgreSQL's for LIKE.
    """
    begins = Q(**{f"{field}__startswith": text})
    if connection.vendor == "sqlite":
        begins &= Q(**{f"{field}__gte": text, f"{field}__lt": text + chr(0x10FFFF)})
    return begins if text == text.lower() else begins | begins_with(field, text.lower())


def decoded(text: str | None) -> Any:
    """A column that holds JSON; what is not JSON is given as it is."""
    try:
        return json.loads(text or "null")
    except ValueError:
        return text


def queue_of(row: Any) -> str | None:
    """The queue that a task was sent to, as `handbell.celery.backend` writes it."""
    meta = decoded(row.meta)
    return meta.get("queue") if isinstance(meta, dict) else None


def error_in(row: Any) -> str | None:
    """The exception that ended a call, or after which it is tried again, as Python prints it."""
    error = decoded(row.result)
    if not isinstance(error, dict) or "exc_type" not in error:
        return None
    message = error.get("exc_message")
    parts = message if isinstance(message, list) else [message]
    return ": ".join(filter(None, [str(error["exc_type"]), ", ".join(str(part) for part in parts if part is not None)]))
