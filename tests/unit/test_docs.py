"""What the documentation says is what the code says, and what it points to is there."""

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands

from project.environment import Variable
from tasks_app.queues import QUEUES, SHARED, Queue
from tests.system import ROOT


def setting(variable: Variable) -> str:
    return f"| `{variable.name}` | {variable.default or 'nothing'} | {variable.purpose} |"


def queue_row(queue: Queue) -> str:
    variable = f"`{queue.variable}`" if queue.adjustable else "none"
    memory = f"{queue.memory_mb} MiB" if queue.memory_mb else "none"
    concurrency = queue.shown or str(queue.concurrency)
    return f"| `{queue.name}` | {queue.pool} | {variable} | {concurrency} | {memory} | {queue.purpose} |"


SETTINGS = ["| variable | default | purpose |", "|---|---|---|", *map(setting, settings.ENV.variables)]
QUEUE_TABLE = [
    "| queue | pool | concurrency set by | default | memory cap | for |",
    "|---|---|---|---|---|---|",
    *map(queue_row, QUEUES),
]


@pytest.mark.parametrize(("page", "table"), [("settings", SETTINGS), ("queues", QUEUE_TABLE)])
def test_the_table_in_the_documentation_is_what_the_code_says(page: str, table: list[str]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()

    assert [line for line in text.splitlines() if line.startswith("|")] == table


def test_the_documentation_names_the_queues_that_shared_workers_take() -> None:
    text = " ".join((ROOT / "docs" / "queues.md").read_text().split())
    *others, last = (f"`{queue.name}`" for queue in SHARED)

    assert f"each of them takes {', '.join(others)} and {last}" in text


def test_every_variable_is_described_once_and_on_one_line() -> None:
    names = [variable.name for variable in settings.ENV.variables]

    assert len(names) == len(set(names))
    for variable in settings.ENV.variables:
        assert variable.purpose.endswith("."), variable
        assert not {"|", "\n"} & set(variable.purpose + variable.default), variable


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for command in re.findall(r"manage\.py ([a-z_]+)", text):
        assert command in get_commands(), command
    for target in re.findall(r"^    make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
