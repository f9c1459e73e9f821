"""What commands print: tables, and refusals as a sentence instead of a traceback."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError
from rich.console import Console
from rich.table import Table

from tasks_app.errors import TasksAppError


@contextmanager
def refusals_as_sentences() -> Iterator[None]:
    """
    Raises:
        CommandError: what was asked for does not go, or the database is not there; the message says which.
    """
    try:
        yield
    except TasksAppError as error:
        raise CommandError(str(error)) from error
    except DatabaseError as error:
        raise CommandError(
            f"The database cannot be used ({str(error).strip()}). Start it, run `manage.py migrate`, or correct "
            "DATABASE_URL."
        ) from error


def print_table(file: Any, headings: Sequence[str], numbers: Collection[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose columns are those headings, the `numbers` among them to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for row in rows:
        table.add_row(*row)
    Console(file=file, highlight=False, width=140).print(table)
