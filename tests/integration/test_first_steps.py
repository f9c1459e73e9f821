"""docs/first-steps.md, taken step by step as a new user would, in a copy of this repository."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.documents import ROOT, Step, checked, steps
from tests.servers import wait_for

PAGE = "docs/first-steps.md"


class Reader:
    """Somebody who follows the page in a folder of their own; `make up` is started anew after each change of code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in listed_by_git():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        own = ("HANDBELL_", "TEST_", "DATABASE_", "CELERY_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(own)},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HANDBELL_DATA_DIR": str(folder / "var"),
            "PYTHONPATH": str(folder),
        }
        self.environment.pop("DJANGO_SETTINGS_MODULE", None)
        self._up: subprocess.Popen[bytes] | None = None

    def take(self, step: Step) -> None:
        if step.verb in {"write", "append"}:
            self.stop()
            with (self.folder / step.file).open("a") as file:
                file.write(f"\n{step.text}" if step.verb == "append" else step.text)
        elif step.verb == "shell":
            self.start()
            self.run("python", "manage.py", "shell", "-c", checked(step.text))
        elif step.verb == "run":
            _, until, expected = step.notes.partition("until it says ")
            for line in step.text.splitlines():
                command = line.split()
                if until:
                    wait_for(lambda command=command: expected in self.run(*command), f"{line} says {expected}")  # type: ignore[misc]
                else:
                    self.run(*command)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        if self._up is not None:
            return
        log = self.folder / "up.log"
        with log.open("w") as output:
            self._up = subprocess.Popen(
                ["python", "manage.py", "handbell", "up", "--port=0", "--no-flower", "--no-beat"],
                cwd=self.folder,
                env={**self.environment, "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        up = self._up
        wait_for(lambda: "ready:" in log.read_text() or up.poll() is not None, "up is ready", 60)
        assert up.poll() is None, log.read_text()

    def stop(self) -> None:
        if self._up is not None:
            self._up.terminate()
            assert self._up.wait(20) == 0
            self._up = None


def listed_by_git() -> list[str]:
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    somebody = Reader(folder)
    try:
        yield somebody
    finally:
        somebody.stop()


@pytest.mark.timeout(300)
def test_each_step_does_what_the_page_says(tmp_path: Path) -> None:
    taken = steps(PAGE)
    assert [step.verb for step in taken].count("shell") >= 4
    with reader(tmp_path) as somebody:
        for step in taken:
            somebody.take(step)
