"""What the documentation says is what the code says, and what it points to is there."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import get_commands

from handbell import queues
from handbell.conf import Setting, declared_settings
from handbell.management.commands.handbell import SUBCOMMANDS
from handbell.queues import Queue
from project.environment import Variable
from tasks_app.queues import QUEUES
from tests.system import ROOT

SETTING_NAMES = [setting.name for setting in declared_settings()]
#: The project's own variables. Those that set Handbell's settings are described with these.
OWN_VARIABLES = [variable for variable in settings.ENV.variables if variable.name not in SETTING_NAMES]


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    line, *lines = [f"| {' | '.join(cells)} |" for cells in (headings, *rows)]
    return [line, f"|{'---|' * len(headings)}", *lines]


def setting_row(setting: Setting[Any]) -> tuple[str, ...]:
    return (f"`{setting.name}`", setting.default_shown or "nothing", setting.allowed, setting.purpose)


def variable_row(variable: Variable) -> tuple[str, ...]:
    return (f"`{variable.name}`", variable.default or "nothing", variable.purpose)


def queue_row(queue: Queue) -> tuple[str, ...]:
    memory = f"{queue.memory_mb} MiB" if queue.memory_mb else "none"
    concurrency = queue.concurrency_shown or str(queue.concurrency)
    return (f"`{queue.name}`", queue.pool, concurrency, memory, queue.purpose)


QUEUE_HEADINGS = ("queue", "pool", "concurrency", "memory cap", "for")
TABLES = {
    "settings": [
        *table(("setting", "default", "what it may be", "what it is for"), map(setting_row, declared_settings())),
        *table(("variable", "default", "what it is for"), map(variable_row, OWN_VARIABLES)),
    ],
    "queues": [
        *table(QUEUE_HEADINGS, map(queue_row, QUEUES)),
        *table(QUEUE_HEADINGS, map(queue_row, queues.QUEUES)),
    ],
}


@pytest.mark.parametrize("page", TABLES)
def test_the_tables_in_the_documentation_are_what_the_code_says(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()

    assert [line for line in text.splitlines() if line.startswith("|")] == TABLES[page]


def test_the_documentation_names_the_queues_that_shared_workers_take() -> None:
    text = " ".join((ROOT / "docs" / "queues.md").read_text().split())
    *others, last = (f"`{queue.name}`" for queue in QUEUES if queue.is_shared)

    assert f"each of them takes {', '.join(others)} and {last}" in text


def test_every_variable_is_described_once_and_on_one_line() -> None:
    names = [variable.name for variable in settings.ENV.variables]

    assert len(names) == len(set(names))
    for variable in settings.ENV.variables:
        assert variable.purpose.endswith("."), variable
        assert not {"|", "\n"} & set(variable.purpose + variable.default), variable


def test_every_subcommand_is_described_in_the_order_of_its_help() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()

    assert re.findall(r"^## `manage\.py handbell ([a-z]+)`", text, re.MULTILINE) == list(SUBCOMMANDS)


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for command in re.findall(r"manage\.py ([a-z_]+)", text):
        assert command in get_commands(), command
    for subcommand in re.findall(r"manage\.py handbell ([a-z]+)", text):
        assert subcommand in SUBCOMMANDS, subcommand
    for target in re.findall(r"^    make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
