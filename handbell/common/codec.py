"""How arguments, results and errors are stored: as compact JSON, and as text that every database can hold."""

import json
import traceback
from typing import Any

from celery.utils.serialization import ensure_serializable

from handbell.errors import NotJson

MAX_TRACEBACK_CHARACTERS = 20_000

#: Compact JSON. Raises TypeError or ValueError for what JSON cannot hold, NaN and infinity included.
encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode_arguments(args: Any, kwargs: Any, encode: Any = encode) -> str:
    """Arguments as the ledger keeps them.

    Raises:
        NotJson: JSON cannot hold one of them.
    """
    try:
        return str(encode((args, kwargs)))
    except (TypeError, ValueError) as error:
        raise NotJson(f"Arguments must be JSON: {error}. Pass keys, numbers, texts, lists and dicts.") from error


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
    except (TypeError, ValueError) as error:
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
