"""Somebody's project, fresh from `django-admin startproject`, in which the steps of docs/install.md are taken."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.documents import Step, checked
from tests.packaging.environments import Environment
from tests.servers import wait_for
from tests.system import nothing_is_left

AS_CELERY_DOCUMENTS = Path(__file__).parent / "as_documented"
DISTRIBUTION = re.compile(r"django-handbell(\[[\w,]+\])?")


class Site:
    """The project `mysite` in `folder`, with Celery set up as its documentation says. `wheel` is what pip installs."""

    def __init__(self, folder: Path, environment: Environment, wheel: Path) -> None:
        self.folder, self.environment, self.wheel = folder, environment, wheel
        self.variables = {**environment.variables(), "PYTHONWARNINGS": "default"}
        self.said: list[str] = []
        folder.mkdir()
        self.run("django-admin startproject mysite .")
        for name in ("celery.py", "__init__.py"):
            (folder / "mysite" / name).write_text((AS_CELERY_DOCUMENTS / f"{name}.txt").read_text())

    def take(self, step: Step) -> None:
        """Do what the page says."""
        file = self.folder / step.file
        if step.verb == "run":
            for line in step.text.splitlines():
                self.run(line)
        elif step.verb == "shell":
            self.run_in_shell(checked(step.text))
        elif step.verb == "write":
            file.write_text(step.text)
        elif step.verb == "append":
            file.write_text(f"{file.read_text()}\n{step.text}")
        elif step.verb == "replace":
            line = step.notes.removeprefix("the line: ") + "\n"
            assert line in file.read_text()
            file.write_text(file.read_text().replace(line, step.text))
        else:
            raise AssertionError(step)

    def run(self, command: str, *, fails: bool = False) -> str:
        """What the command prints. `pip install` installs the wheel under the distribution's name."""
        words = shlex.split(command)
        if words[:2] == ["pip", "install"]:
            self.environment.install(*map(self._requirement, words[2:]))
            return ""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{command}: {done.stdout}"
        self.said.append(done.stdout)
        return done.stdout

    def run_in_shell(self, code: str) -> str:
        return self.run(f"python manage.py shell -v 0 -c {shlex.quote(code)}")

    def keep_database(self) -> None:
        shutil.copy(self.folder / "db.sqlite3", self.folder.parent / "kept.sqlite3")

    def restore_database(self) -> None:
        """As it was when it was kept."""
        for file in self.folder.glob("db.sqlite3*"):
            file.unlink()
        shutil.copy(self.folder.parent / "kept.sqlite3", self.folder / "db.sqlite3")

    def _requirement(self, word: str) -> str:
        return f"{word} @ {self.wheel.as_uri()}" if DISTRIBUTION.fullmatch(word) else word

    @contextmanager
    def running(self, commands: Iterable[str]) -> Iterator[list["Program"]]:
        """Each of the commands, side by side, until the block ends; then nothing of them is left."""
        with ExitStack() as stack:
            programs = [Program(self, command) for command in commands]
            for program in programs:
                stack.callback(program.end)
            yield programs
            for program in programs:
                program.stop()
        self.said += [program.output() for program in programs]
        nothing_is_left(self.folder)

    def warnings(self) -> list[str]:
        """Whatever Python has warned of in Handbell's own files, in all that was run."""
        lines = "\n".join(self.said).splitlines()
        return sorted({line for line in lines if re.search(r"site-packages/handbell/\S+:\d+: \w*Warning", line)})


class Program:
    """A command that runs until it is stopped, and what it has printed so far."""

    def __init__(self, site: Site, command: str) -> None:
        words = shlex.split(command)
        self.command = command
        self.log = site.folder.parent / f"{site.folder.name}-{len(list(site.folder.parent.glob('*.log')))}.log"
        with self.log.open("w") as output:
            self.popen = subprocess.Popen(
                words, cwd=site.folder, env=site.variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_it_says(self, words: str) -> None:
        wait_for(lambda: words in self.output() or self.popen.poll() is not None, f"{self.command} says {words}", 60)
        assert words in self.output(), self.output()

    def stop(self) -> None:
        self.popen.terminate()
        assert self.popen.wait(30) == 0, self.output()

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
