"""A shell of one system: the project is loaded once, and each function runs in a fork of its own.

A new `manage.py shell` for each question takes more than a second of a processor, and tests ask many.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

MARK = "ANSWER"  # before what a function returned


class Shell:
    """A shell in this environment. It ends with the process that has started it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        # What it is started with does not tell its system, so that nobody takes it for a part of that.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.shell"],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
            bufsize=1,
        )
        self._say(environment)

    def run(self, request: dict[str, Any], timeout: float) -> tuple[int, str]:
        """Run a function ({"module", "name", "args"}) or some code ({"code"}): the exit code, and what it has printed.

        Raises:
            subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was killed, as is the shell.
        """
        assert self._process.stdout is not None
        self._say(request)
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            self.end()
            raise subprocess.TimeoutExpired(str(request), timeout)
        done: tuple[int, str] = tuple(json.loads(self._process.stdout.readline()))
        return done

    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        if self.alive():
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _say(self, what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")


def main() -> None:
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)  # not for whom the code starts
    os.environ.clear()
    os.environ.update({"DJANGO_SETTINGS_MODULE": "project.settings", **json.loads(requests.readline())})
    import django  # noqa: PLC0415  (needs the settings)

    django.setup()
    for line in requests:
        request = json.loads(line)
        if "module" in request:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import_module(request["module"])  # once, for all forks
        replies.write(json.dumps(in_a_fork(request)) + "\n")


def in_a_fork(request: dict[str, Any]) -> tuple[int, str]:
    with tempfile.TemporaryFile("w+") as output:
        pid = os.fork()
        if pid == 0:
            run(request, output.fileno())
        _, status = os.waitpid(pid, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read()


def run(request: dict[str, Any], output: int) -> None:
    result = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if "code" in request:
            exec(request["code"], {"__name__": "__main__"})
        else:
            answer = getattr(import_module(request["module"]), request["name"])(*request["args"])
            print(MARK, json.dumps(answer))
        result = 0
    except BaseException:  # whatever it is, it is printed for who has asked
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(result)


if __name__ == "__main__":
    main()
