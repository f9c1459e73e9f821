"""The project uses Handbell as any other project would: through what `handbell` itself offers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import handbell
from tests.system import ROOT

MODULES = sorted(path for folder in ("project", "tasks_app") for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Each module that the file at `path` imports from Handbell, with each name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "handbell")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "handbell":
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_nothing_but_public_names(path: Path) -> None:
    for module, name in imported(path):
        assert module == "handbell", f"{path.name} imports {module}; write `from handbell import …`"
        assert name in ("", *handbell.__all__), f"{name} is not in handbell.__all__"
