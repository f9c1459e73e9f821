"""docs/operations.md: the commands that it names exist, and the sentences that it quotes are said."""

import ast
import re
import shlex
from pathlib import Path

import celery.worker.consumer.consumer
import kombu.serialization
import pytest

from handbell.management.commands.handbell import Command
from tests.system import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()
COMMANDS = sorted(set(re.findall(r"manage\.py handbell ([^`\n]+)", PAGE)))
#: What others say: Valkey, SQLite, the kernel, PostgreSQL.
OF_OTHERS = {
    "command not allowed when used memory > 'maxmemory'",
    "database or disk is full",
    "disk I/O error",
    "No space left on device",
    "cannot execute UPDATE in a read-only transaction",
}
QUOTES = sorted(set(re.findall("“([^”]+)”", PAGE)) - OF_OTHERS)


def texts(path: Path) -> str:
    """Every text in a module's source; a place of an f-string that is filled in is a blank."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "" for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


@pytest.fixture(scope="module")
def said() -> str:
    libraries = [Path(str(module.__file__)) for module in (celery.worker.consumer.consumer, kombu.serialization)]
    return "\n".join(texts(path) for path in [*(ROOT / "handbell").rglob("*.py"), *libraries])


@pytest.mark.parametrize("quote", QUOTES)
def test_what_is_quoted_is_said(quote: str, said: str) -> None:
    assert quote in said


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_exists(command: str) -> None:
    words = ["1" if word in {"ID", "N"} else word for word in shlex.split(command)]
    Command().create_parser("manage.py", "handbell").parse_args(words)
