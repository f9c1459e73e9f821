"""django-celery-results' own tests of its database backend, as published, pass with ours in its place.

They are not in its wheel, so they come from its source distribution: that of the locked version, with the locked hash.
"""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.system import ROOT

LIBRARY = "django-celery-results"
TESTS = 27  # in t/unit/backends/test_database.py
#: Tests that fail, each with the reason why it must.
DIFFERENT: dict[str, str] = {}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library's tests, and nothing else of it: what they test is what is installed."""
    folder = tmp_path_factory.mktemp("published")
    locked = re.search(rf"^{LIBRARY}==.*?(?=^\S)", (ROOT / "requirements.txt").read_text(), re.DOTALL | re.MULTILINE)
    assert locked
    (folder / "locked.txt").write_text(locked.group())
    options = [f"--no-binary={LIBRARY}", "--no-deps", "--require-hashes", f"--dest={folder}", "-r", "locked.txt"]
    done = run([sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options], folder)
    assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
    if done.returncode:
        what = f"The source distribution of {LIBRARY} could not be downloaded: {done.stderr.strip()}"
        pytest.fail(what) if os.environ.get("CI") == "true" else pytest.skip(what)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as found:
        found.extractall(folder, [name for name in found if name.name.split("/")[1:2] == ["t"]], filter="data")
    (unpacked,) = (path.parent for path in folder.glob("*/t"))
    return unpacked


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
        "DJANGO_SETTINGS_MODULE": "tests.published.settings",
    }
    if database == "postgres":
        url = request.getfixturevalue("postgres").create_database("published")
        environment |= {"DATABASE_URL": url, "SECRET_KEY": "only for tests " * 4}
    options = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "tests.published.plugin", "-rf"]
    options += ["-c", os.devnull, f"--rootdir={published}", "-o", "python_classes=test_*"]
    done = run([sys.executable, "-m", "pytest", *options, "t/unit/backends/test_database.py"], published, **environment)
    failed = set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE))
    assert failed == set(DIFFERENT), done.stdout
    assert f" {TESTS - len(DIFFERENT)} passed" in done.stdout, done.stdout + done.stderr
