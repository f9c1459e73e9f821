"""How arguments, results and errors are stored: as compact JSON, and as text that every database can hold."""

import json
import re
import traceback
from typing import Any

from celery.utils.serialization import ensure_serializable

from handbell.conf import conf
from handbell.errors import ArgumentsTooLarge, NotJson

MAX_TRACEBACK_CHARACTERS = 20_000
MIB = 1 << 20
#: A worker decodes in a deeper stack than its caller has encoded in, and Python's stack has a limit.
MAX_NESTING = 200
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')  # outside of texts, which it takes as a whole

#: Compact JSON. Raises one of `NOT_JSON` for what JSON cannot hold, NaN and infinity included.
encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
NOT_JSON = (TypeError, ValueError, RecursionError)


def encode_arguments(what: str, value: Any, encode: Any = encode) -> str:
    """Arguments as the ledger keeps them; `what` is their name in the error.

    Raises:
        NotJson: JSON cannot hold one of them, or they are nested too deeply.
        ArgumentsTooLarge: they are larger than `HANDBELL_ARGUMENTS_MB`.
    """
    try:
        text = str(encode(value))
    except RecursionError as error:
        raise NotJson(f"{what} must be JSON, and they are nested too deeply.") from error
    except NOT_JSON as error:
        raise NotJson(f"{what} must be JSON: {error}. Pass keys, numbers, texts, lists and dicts.") from error
    refuse_large_or_deep(what, text)
    return text


def refuse_large_or_deep(what: str, encoded: str | bytes) -> None:
    """
    Raises:
        ArgumentsTooLarge: what is encoded is larger than `HANDBELL_ARGUMENTS_MB` allows.
        NotJson: more than 200 lists and dicts are inside of each other.
    """
    size, limit = len(encoded), conf.ARGUMENTS_MB
    if size > limit * MIB:
        raise ArgumentsTooLarge(
            f"{what} are {size / MIB:,.1f} MiB of JSON, and HANDBELL_ARGUMENTS_MB allows {limit:g}. Store what is "
            "large in the database or in a file, and pass its key."
        )
    if isinstance(encoded, str) and _is_deep(encoded):
        raise NotJson(f"{what} are nested too deeply: no more than {MAX_NESTING} lists and dicts inside of each other.")


def _is_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return False
    depth = 0
    for found in _BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > MAX_NESTING:
            return True
    return False


def decode_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    args, kwargs = json.loads(text)
    return args, kwargs


def encode_result(task: str, result: Any) -> str:
    """What a task returned, as the ledger keeps it.

    Raises:
        NotJson: JSON cannot hold it.
    """
    if type(result) is int:
        return str(result)
    try:
        return encode(result)
    except NOT_JSON as error:
        raise NotJson(f"{task} returned what JSON cannot hold: {error}.") from error


def encode_error(error: BaseException) -> str:
    """An error as Celery's result backends store one, so that `AsyncResult.get()` raises it again."""
    kind = type(error)
    arguments = ensure_serializable(list(error.args), encode)
    return encode({"exc_type": kind.__name__, "exc_message": arguments, "exc_module": kind.__module__})


def formatted_traceback(error: BaseException) -> str:
    """The end of the traceback, where the error is."""
    return storable("".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARACTERS:])


def storable(text: str) -> str:
    """The text without what PostgreSQL cannot hold: NUL and lone surrogates. Errors and output may contain both."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def decode_output(text: bytes) -> str:
    """Output of a process as text, whatever its bytes are."""
    return text.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
