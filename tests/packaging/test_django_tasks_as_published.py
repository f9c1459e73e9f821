"""Django's own tests of its Tasks framework, as published, pass with Handbell's backend in the place of Django's.

They are in Django's source distribution. Its dummy backend, which only calls, and its immediate one, which also runs,
are replaced (as_published/runner.py), and no test is changed.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.environments import Environment, find_python
from tests.published.source import NotDownloaded, published_tests

FOLDER = Path(__file__).parent / "as_published"
REQUIREMENTS = FOLDER / "requirements.txt"
TESTS = 85
#: Tests that fail, each with the reason why it must.
DIFFERENT = {
    "ImmediateBackendTestCase.test_cannot_get_result": "results can be read",
    "ImmediateBackendTestCase.test_cannot_refresh_result": "results can be read again",
    "ImmediateBackendTestCase.test_cannot_pass_run_after": "tasks can be scheduled",
    "DummyBackendTestCase.test_refresh_result": "changes a result that Django's backend keeps in memory",
    "DummyBackendTestCase.test_refresh_result_async": "changes a result that Django's backend keeps in memory",
}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    python = find_python("3.13") or find_python("3.12")
    if python is None:
        pytest.skip("Python 3.12 or newer is missing: install it as python3.13, or with pyenv.")
    made = Environment.make(tmp_path_factory.mktemp("as_published") / "environment", python)
    django = REQUIREMENTS.read_text().split()[0]
    made.install(django, f"django-handbell[embedded,postgres] @ {wheel.as_uri()}")
    return made


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return published_tests("django", tmp_path_factory.mktemp("django"), "tests/tasks", REQUIREMENTS)
    except NotDownloaded as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_djangos_own_tests_pass(
    database: str, environment: Environment, published: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(published / "tests" / "tasks", tmp_path / "tasks")
    for name in ("settings.py", "runner.py"):
        shutil.copy(FOLDER / name, tmp_path)
    variables = {**environment.variables(), "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(tmp_path)}
    if database == "postgres":
        variables["DATABASE_URL"] = request.getfixturevalue("postgres").create_database("django_tasks")
    command = [str(environment.python), "-m", "django", "test", "tasks"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    failed = set(re.findall(r"^(?:FAIL|ERROR): \w+ \(tasks\.\w+\.([\w.]+)\)", done.stderr, re.MULTILINE))

    assert f"Ran {TESTS} tests" in done.stderr, done.stderr
    assert failed == set(DIFFERENT), done.stderr
