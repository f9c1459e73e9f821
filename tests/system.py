"""A whole system in a folder of its own, run as a user would run it: by `manage.py`, in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from tests.servers import wait_for
from tests.shell import MARK, Shell

ROOT = Path(__file__).resolve().parent.parent
MANAGE = [sys.executable, str(ROOT / "manage.py")]


@dataclass
class System:
    """`environment` chooses the database and the broker; everything written goes to `folder`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    _shell: ClassVar[Shell | None] = None  # that of the system which was asked last

    @property
    def env(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "SECRET_KEY"}}
        return {**inherited, "HANDBELL_DATA_DIR": str(self.folder), **self.environment}

    def manage(self, *arguments: str, timeout: float = 150, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`manage.py ARGUMENTS`, to its end."""
        return subprocess.run(
            [*MANAGE, *arguments],
            env={**self.env, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def call(self, function: Callable[..., Any], *args: Any, timeout: float = 150) -> Any:
        """Call a function of a test's module in this system, in a process of its own; what it returned, as JSON."""
        request = {"module": function.__module__, "name": function.__name__, "args": args}
        return self._ask(request, timeout)

    def python(self, code: str, timeout: float = 60) -> Any:
        """Run `code` in the project's shell, in a process of its own; what it left in `answer`."""
        return self._ask({"code": f"{code}\nimport json; print('{MARK}', json.dumps(answer))"}, timeout)

    def _ask(self, request: dict[str, Any], timeout: float) -> Any:
        if System._shell is None or System._shell.environment != self.env or not System._shell.alive():
            self.end_shell()
            System._shell = Shell(self.env)
        returncode, output = System._shell.run(request, timeout)
        assert returncode == 0, output
        return json.loads(output.rpartition(f"{MARK} ")[2])

    @staticmethod
    def end_shell() -> None:
        if System._shell is not None:
            System._shell.end()
            System._shell = None

    @contextmanager
    def worker(self, *options: str) -> Iterator["Running"]:
        """`manage.py celery worker OPTIONS`, until it answers, for as long as the block takes; then it is killed."""
        with self.process("celery", "worker", "--without-gossip", "--without-mingle", *options) as worker:
            wait_for(lambda: " ready." in worker.output(), "the worker is ready")
            yield worker
            worker.kill()

    @contextmanager
    def up(self, *options: str) -> Iterator["Running"]:
        """`manage.py handbell up OPTIONS`, until it says that it is ready, for as long as the block takes."""
        with self.process("handbell", "up", "--port=0", "--flower-port=0", *options) as up:
            wait_for(lambda: "ready:" in up.output() or not up.alive(), "up is ready", 60)
            assert up.alive(), up.output()
            yield up

    @contextmanager
    def process(self, *arguments: str) -> Iterator["Running"]:
        log = self.folder.parent / f"{self.folder.name}-{arguments[0]}-{os.urandom(3).hex()}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*MANAGE, *arguments],
                env={**self.env, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        running = Running(self, psutil.Process(process.pid), process, log)
        try:
            yield running
        finally:
            running.end()


@dataclass
class Running:
    """A command that runs, and what it has printed so far."""

    system: System
    process: psutil.Process
    popen: "subprocess.Popen[bytes]"
    log: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        return self.popen.poll() is None

    def state(self) -> dict[str, Any]:
        """What `up` says of itself."""
        state: dict[str, Any] = json.loads((self.system.folder / "up.json").read_text())
        return state

    def descendants(self) -> list[psutil.Process]:
        found: list[psutil.Process] = self.process.children(recursive=True)
        return found

    def child(self, words: str) -> psutil.Process:
        """The direct child whose command line contains `words`."""
        found = [child for child in self.process.children() if words in " ".join(child.cmdline())]
        assert len(found) == 1, f"{words}: {found}"
        return found[0]

    def terminate(self, seconds: float = 15) -> int:
        self.popen.terminate()
        return self.popen.wait(seconds)

    def kill(self) -> None:
        """Have it gone at once, with all that it has started: a worker that stops takes two seconds."""
        members = self.descendants() if self.alive() else []
        self.popen.kill()
        self.popen.wait()
        for member in members:
            if member.is_running():
                member.kill()

    def end(self) -> None:
        """Stop it; kill whatever would not stop."""
        members = self.descendants() if self.alive() else []
        self.popen.terminate()
        try:
            self.popen.wait(15)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for member in members:
            if member.is_running():
                member.kill()


def left_running(folder: Path) -> list[str]:
    """The command lines of all processes that still work in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and (
                str(folder) in line or process.environ().get("HANDBELL_DATA_DIR") == str(folder)
            ):
                found.append(line)
        except psutil.Error:
            continue
    return found


def nothing_is_left(folder: Path) -> None:
    wait_for(lambda: not left_running(folder), f"nothing is left running: {left_running(folder)}", 10)
