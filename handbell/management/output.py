"""What commands print: tables, JSON, facts, and refusals as a sentence instead of a traceback."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, OutputWrapper
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handbell.errors import HandbellError

FILE_WIDTH_CHARACTERS = 140  # of a table that does not go to a terminal
INDENT_SPACES = 2


@contextmanager
def command_errors() -> Iterator[None]:
    """
    Raises:
        CommandError: what was asked for cannot be done, or the database is not there; the message says which.
    """
    try:
        yield
    except HandbellError as error:
        raise CommandError(str(error)) from error
    except DatabaseError as error:
        raise CommandError(database_problem(error)) from error


def database_problem(error: DatabaseError) -> str:
    return (
        f"The database cannot be used ({str(error).strip()}). Start it, run `manage.py migrate`, or correct "
        "DATABASE_URL."
    )


def read_only_problem(error: DatabaseError) -> str:
    return (
        f"The ledger can be read, but not written ({str(error).strip()}). Make the database writable, or point "
        "DATABASE_URL to one that is: until then no call is taken and no work is done."
    )


def print_table(file: Any, headings: Sequence[str], numbers: Collection[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose columns are those headings, the `numbers` among them to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=file, highlight=False, width=None if file.isatty() else FILE_WIDTH_CHARACTERS).print(table)


def print_json(file: OutputWrapper, value: Any) -> None:
    """JSON for programs: moments as in ISO 8601, lengths of time in seconds."""
    file.write(json.dumps(value, indent=INDENT_SPACES, ensure_ascii=False, cls=_Encoder))


def print_facts(file: OutputWrapper, facts: Mapping[str, object], texts: Mapping[str, str | None]) -> None:
    """One fact a line, and below them texts of many lines, each under its name. What is empty is left out."""
    shown = {name: value for name, value in facts.items() if value not in (None, "")}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        file.write(f"{name:<{width}}  {value}")
    for name, text in texts.items():
        if text:
            file.write(f"\n--- {name}\n{text}")


def seconds_shown(time: timedelta | None) -> str:
    return "" if time is None else f"{time.total_seconds():,.1f} s"


class _Encoder(DjangoJSONEncoder):
    def default(self, o: Any) -> Any:
        return round(o.total_seconds(), 3) if isinstance(o, timedelta) else super().default(o)
