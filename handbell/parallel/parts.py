"""Calling a function with many values, some of which it may refuse: those are found, and the rest goes on."""

from collections.abc import Callable
from typing import Any

from handbell.common.outages import is_outage
from handbell.common.time_limits import is_told_to_stop

MAX_PART_CALLS = 64  # then a part that is refused fails as a whole


def call_with_parts(call: Callable[[list[Any]], Any], values: list[Any]) -> tuple[list[Any], dict[int, BaseException]]:
    """Call `call` with all values. If it raises an error, call it with each half, and so on until the values at fault
    are found: about twice as often as there are halvings, and at the most some 80 times.

    Returns what it returned, for each part that it took, in their order, and the errors by the indexes of the values at
    fault.

    Raises:
        django.db.Error: the database was away, which is no value's fault.
    """
    returned: list[Any] = []
    errors: dict[int, BaseException] = {}
    calls = 0
    parts = [(0, len(values))] if values else []
    while parts:
        first, end = parts.pop()
        calls += 1
        try:
            returned.append(call(values[first:end]))
        except (Exception, SystemExit) as error:
            if is_outage(error) or is_told_to_stop(error):
                raise
            if end - first > 1 and calls < MAX_PART_CALLS:
                middle = (first + end) // 2
                parts += [(middle, end), (first, middle)]
            else:
                errors |= dict.fromkeys(range(first, end), error)
    return returned, errors
