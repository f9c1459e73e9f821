"""The system a command works against: the one that runs, or one started for as long as the command takes."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError

from tasks_app.children import describe_exit, die_with_parent
from tasks_app.errors import TasksAppError
from tasks_app.management.processes import environment
from tasks_app.management.running import Running, running_system

READY_SECONDS = 90.0
STOP_SECONDS = 15.0


class SystemUnavailable(TasksAppError):
    """The system did not start, or it runs without the parts that are needed."""


@contextmanager
def system(url: str | None, say: Callable[[str], None]) -> Iterator[str]:
    """The address of the web server of a system that is ready.

    Raises:
        SystemUnavailable: it did not get ready, or has no web server.
    """
    if running_system() is not None:
        running = _wait_until_ready(None, None)
        say(f"Using the system that is running (process {running.pid}).")
        yield _address(running, url)
    elif url is not None and _workers_answer():
        say("Using the workers that answer on the broker.")
        yield url
    else:
        with _started(say) as running:
            yield _address(running, url)


@contextmanager
def _started(say: Callable[[str], None]) -> Iterator[Running]:
    log = settings.VAR_DIR / "demo.log"
    say(f"Starting the system (its output goes to {log}) …")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # stop what was started, too
    options = ["--port=0", "--no-flower", "--workers=w1,w2", "--no-admin"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "up", *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment({}),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        yield _wait_until_ready(process, log)
    finally:
        say("Stopping the system …")
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes] | None", log: Path | None) -> Running:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        running = running_system()
        if running is not None and running.ready:
            return running
        if process is not None and process.poll() is not None:
            last = log.read_text().strip().splitlines()[-1:] if log else []
            raise SystemUnavailable(f"The system ended with {describe_exit(process.returncode)}: {' '.join(last)}")
        if process is None and running is None:
            raise SystemUnavailable("The system that was running has stopped. Try again.")
        time.sleep(0.1)
    raise SystemUnavailable(f"The system was not ready within {READY_SECONDS:.0f} s. Look into {log or 'its output'}.")


def _address(running: Running, url: str | None) -> str:
    if url or running.web:
        return url or str(running.web)
    raise SystemUnavailable("The running system has no web server (--no-web). Say where one answers with --url.")


def _workers_answer() -> bool:
    try:
        return bool(current_app.control.ping(timeout=1))
    except (OperationalError, OSError):
        return False
