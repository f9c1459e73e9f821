"""The options of a call: one that makes no sense to Celery, or that the ledger cannot hold, is refused at the call."""

from collections.abc import Callable, Mapping
from typing import Any

from celery.utils.time import maybe_iso8601
from kombu import Queue

from handbell.arguments import (
    MAX_DELAY_SECONDS,
    require_call,
    require_integer,
    require_moment,
    require_number,
    require_text,
    shown,
)

MAX_ARGUMENTS_REPR_CHARACTERS = 1 << 20


def check_call(name: str, args: Any, kwargs: Any, options: Mapping[str, Any]) -> None:
    """Check the options of a call, and that its arguments are a sequence and a mapping.

    Raises:
        TypeError, ValueError: an option is none that Celery knows what to do with, or the ledger cannot hold it.
    """
    require_call(name, args, kwargs)
    for option, checked in _OPTIONS.items():
        if options.get(option):
            checked(option, options[option])


def _check_moment(name: str, value: Any) -> None:
    """As Celery takes them: a text is in ISO 8601."""
    if not isinstance(value, str):
        require_moment(name, value)
        return
    try:
        maybe_iso8601(value)
    except ValueError as error:
        raise ValueError(f"{name} is a datetime or a text in ISO 8601, not {shown(value)}.") from error


def _check_expiry(name: str, value: Any) -> None:
    if isinstance(value, int | float):
        _check_seconds(name, value)
    else:
        _check_moment(name, value)


def _check_seconds(name: str, value: Any) -> None:
    require_number(name, value, -MAX_DELAY_SECONDS, MAX_DELAY_SECONDS)


def _check_queue(name: str, value: Any) -> None:
    if not isinstance(value, Queue):
        require_text(name, value)


def _check_repr(name: str, value: Any) -> None:
    require_text(name, value, MAX_ARGUMENTS_REPR_CHARACTERS)


def _check_priority(name: str, value: Any) -> None:
    require_integer(name, value, 0, 255)


_OPTIONS: dict[str, Callable[[str, Any], object]] = {
    "task_id": require_text,
    "shadow": require_text,
    "queue": _check_queue,
    "serializer": require_text,
    "compression": require_text,
    "argsrepr": _check_repr,
    "kwargsrepr": _check_repr,
    "countdown": _check_seconds,
    "time_limit": _check_seconds,
    "soft_time_limit": _check_seconds,
    "expires": _check_expiry,
    "eta": _check_moment,
    "priority": _check_priority,
}
