"""django-celery-results' own tests of its database backend, as published, pass with ours in its place.

They are not in its wheel, so they come from its source distribution.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.published.source import NotDownloaded, published_tests
from tests.system import ROOT

LIBRARY = "django-celery-results"
TESTS = 27  # in t/unit/backends/test_database.py
#: Tests that fail, each with the reason why it must.
DIFFERENT: dict[str, str] = {}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return published_tests(LIBRARY, tmp_path_factory.mktemp("published"))
    except NotDownloaded as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


def run(command: list[str], folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "PYTEST_ADDOPTS"}}
    return subprocess.run(
        command, cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_librarys_own_tests_pass(database: str, published: Path, request: pytest.FixtureRequest) -> None:
    environment = {
        "HANDBELL_DATA_DIR": str(published / "var"),
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.published.results_settings",
    }
    if database == "postgres":
        url = request.getfixturevalue("postgres").create_database("published")
        environment |= {"DATABASE_URL": url, "SECRET_KEY": "only for tests " * 4}
    options = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "tests.published.results_plugin", "-rf"]
    options += ["-c", os.devnull, f"--rootdir={published}", "-o", "python_classes=test_*"]
    done = run([sys.executable, "-m", "pytest", *options, "t/unit/backends/test_database.py"], published, **environment)
    failed = set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE))
    assert failed == set(DIFFERENT), done.stdout
    assert f" {TESTS - len(DIFFERENT)} passed" in done.stdout, done.stdout + done.stderr
