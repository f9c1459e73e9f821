"""What callers pass, checked before anything is written: what is wrong is refused in a sentence that names it.

The database would refuse some of it too; but on PostgreSQL the caller's transaction is lost by then.
"""

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.utils import timezone

MAX_NAME_CHARACTERS = 255  # of ids, keys and names: as in the ledger's columns
MAX_DELAY_SECONDS = 10**9  # thirty years
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")


def shown(value: Any) -> str:
    """The value in an error's sentence: of what is long or deep, the beginning."""
    return reprlib.repr(value)


def require_text(name: str, value: Any, maximum: int = MAX_NAME_CHARACTERS) -> str:
    """The value, if it is a text that fits into a column of so many characters.

    Raises:
        TypeError: it is no text.
        ValueError: it is too long, or holds what databases cannot hold.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {shown(value)}.")
    if len(value) > maximum:
        raise ValueError(f"{name} {shown(value)} has {len(value):,} characters; the limit is {maximum}.")
    if _NOT_STORABLE.search(value):
        raise ValueError(f"{name} {shown(value)} holds NUL or half of a surrogate pair, which no database can hold.")
    return value


def require_number(name: str, value: Any, minimum: float, maximum: float) -> float:
    """The value, if it is a number in this range.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range, or not a number at all (NaN).
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number, not {shown(value)}.")
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} must be from {minimum:,} to {maximum:,}, not {shown(value)}.")
    return value


def require_integer(name: str, value: Any, minimum: int, maximum: int) -> int:
    """The value, if it is a whole number in this range.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {shown(value)}.")
    require_number(name, value, minimum, maximum)
    return value


def require_key(name: str, value: Any) -> int:
    """The value, if it is a primary key as the ledger's tables have them.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is out of range.
    """
    return require_integer(name, value, 0, 2**63 - 1)


def require_iterable(name: str, value: Any) -> Iterable[Any]:
    """The value, if it is a collection or an iterator, and neither a text nor a dict.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise TypeError(f"{name} takes an iterable, such as a list or a generator, not {shown(value)}.")
    return value


def require_moment(name: str, value: Any) -> datetime:
    """The value, if it is a `datetime`: with a time zone, which is Django's current one if it had none.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{name} is a datetime, not {shown(value)}.")
    return timezone.make_aware(value) if timezone.is_naive(value) else value


def require_call(task: str, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, in new containers.

    Raises:
        TypeError: they are not in a list or tuple and a dict of names.
    """
    if args is not None and (isinstance(args, str | bytes) or not isinstance(args, Sequence)):
        raise TypeError(f"{task} takes its arguments in a list or tuple, not {shown(args)}.")
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)):
        raise TypeError(f"{task} takes its keyword arguments in a dict of names and values, not {shown(kwargs)}.")
    return tuple(args or ()), dict(kwargs or {})
