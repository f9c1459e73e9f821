"""Fresh virtual environments: the matrix of what Handbell is for, and the Pythons that this machine has."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))


@cache
def find_python(version: str) -> Path | None:
    """An interpreter of this version ("3.12") that works: on the path, in pyenv's folder, or the one that runs now."""
    command = f"python{version}"
    folders = [*map(Path, os.get_exec_path()), *sorted(PYENV.glob(f"versions/{version}*/bin"))]
    candidates = [Path(sys.executable), *(folder / command for folder in folders)]
    return next((found for found in candidates if found.exists() and _version_of(found) == version), None)


def _version_of(python: Path) -> str:
    ask = "import sys, ensurepip, venv; print('{}.{}'.format(*sys.version_info))"
    asked = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


@dataclass(frozen=True)
class Environment:
    """A virtual environment, made with uv if there is one, otherwise with pip."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, python: Path) -> "Environment":
        make = [UV, "venv", "--quiet", "--seed", f"--python={python}"] if UV else [str(python), "-m", "venv"]
        _run([*make, str(folder)])
        return cls(folder)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, *requirements: str) -> None:
        pip = [UV, "pip", "install", f"--python={self.python}"] if UV else [str(self.python), "-m", "pip", "install"]
        _run([*pip, "--quiet", *requirements])

    def variables(self) -> dict[str, str]:
        """The environment of a shell in which it is active, and that knows nothing of the tests."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "USER") if name in os.environ}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {**kept, "PATH": path, "VIRTUAL_ENV": str(self.folder), "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Entry:
    """What somebody may have: a Python, a Django, and which of `unfold` and `beat` (docs/install.md)."""

    python: str
    django: str
    extras: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join((f"Python {self.python}", self.django, *self.extras))

    def make(self, folder: Path) -> Environment:
        """A fresh environment with this Django. Without this Python, the test is skipped."""
        python = find_python(self.python)
        if python is None:
            pytest.skip(f"Python {self.python} is missing: install it as python{self.python}, or with pyenv.")
        environment = Environment.make(folder, python)
        environment.install(self.django)
        return environment


MATRIX = (
    Entry("3.11", "django==5.2.*", ("beat",)),
    Entry("3.12", "django==6.0.*", ("unfold", "beat")),
    Entry("3.13", "django==6.1.*"),
    Entry("3.14", "django==6.1.*", ("unfold",)),
)


def build_wheel(project: Path, folder: Path) -> Path:
    """The wheel of the project, built by the backend that its pyproject.toml names, which the development
    requirements bring.
    """
    code = f"from hatchling import build; print(build.build_wheel({str(folder)!r}))"
    name = _run([sys.executable, "-c", code], cwd=project).splitlines()[-1]
    return folder / name


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
