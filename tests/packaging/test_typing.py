"""The types that a user sees: mypy and pyright accept what is right and reject each mistake. The wheel is installed."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.environments import Environment
from tests.system import ROOT

FILES = [f"tests/packaging/{name}.py" for name in ("typed_user", "typed_mistakes")]
TOOLS = Path(sys.executable).parent
Check = Callable[[Path, Environment, Path], set[tuple[str, int]]]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What a user who checks types has installed."""
    environment = Environment.make(tmp_path_factory.mktemp("typed") / "environment", Path(sys.executable))
    environment.install(f"django-handbell @ {wheel.as_uri()}", "celery-types", "django-stubs")
    return environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files, away from Handbell's source."""
    for name in ("tests/__init__.py", "tests/packaging/__init__.py", *FILES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def mypy(folder: Path, environment: Environment, cache: Path) -> set[tuple[str, int]]:
    """Where mypy finds errors: files and lines."""
    (folder / "mypy.ini").write_text("[mypy]\nstrict = True\n")
    options = (f"--python-executable={environment.python}", f"--cache-dir={cache}", "--no-error-summary")
    said = _run("mypy", *options, *FILES, folder=folder)
    return {(file, int(line)) for file, line in re.findall(r"^(\S+?):(\d+): error:", said, re.MULTILINE)}


def pyright(folder: Path, environment: Environment, cache: Path) -> set[tuple[str, int]]:
    """Where pyright finds errors, with its own default rules."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    said = _run("basedpyright", "--pythonpath", str(environment.python), "--outputjson", *FILES, folder=folder)
    found = [it for it in json.loads(said)["generalDiagnostics"] if it["severity"] == "error"]
    return {(str(Path(it["file"]).relative_to(folder)), it["range"]["start"]["line"] + 1) for it in found}


def _run(tool: str, *arguments: str, folder: Path) -> str:
    done = subprocess.run([str(TOOLS / tool), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("check", [mypy, pyright])
def test_what_is_right_is_accepted_and_each_mistake_is_rejected(
    check: Check, folder: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mistakes = {
        (FILES[1], number)
        for number, line in enumerate((folder / FILES[1]).read_text().splitlines(), start=1)
        if "# mistake:" in line
    }
    assert len(mistakes) == 10

    assert check(folder, environment, tmp_path_factory.mktemp("cache")) == mistakes
