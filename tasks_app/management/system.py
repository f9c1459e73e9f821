"""The system a command works against: the one that runs, or one started for as long as the command takes."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command

READY_SECONDS = 90.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.2


class SystemUnavailable(Exception):
    """The system did not start, or it runs without the parts that are needed."""


@contextmanager
def system(url: str | None, say: Callable[[str], None]) -> Iterator[str]:
    """The address of the web server of a system that is ready.

    Raises:
        SystemUnavailable: it did not get ready, or has no web server.
    """
    found = status()
    if found["up"] is not None:
        running = _wait_for_running()
        say(f"Using the system that is running (process {running['pid']}).")
        yield _address(running, url)
    elif url is not None and found["workers"]:
        say("Using the workers that answer on the broker.")
        yield url
    else:
        with _started(say) as running:
            yield _address(running, url)


def status() -> dict[str, Any]:
    """What `manage.py handbell status --json` says."""
    said = io.StringIO()
    call_command("handbell", "status", "--json", stdout=said)
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


@contextmanager
def _started(say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    log = settings.HANDBELL_DATA_DIR / "demo.log"
    say(f"Starting the system (its output goes to {log}) …")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # stop what was started, too
    options = ["--port=0", "--no-flower", "--workers=w1,w2", "--no-admin", "--stop-with-parent"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "handbell", "up", *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for_start(process, log)
        yield status()["up"]
    finally:
        say("Stopping the system …")
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for_start(process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while " ready: " not in log.read_text():
        if process.poll() is not None:
            last = " ".join(log.read_text().strip().splitlines()[-1:])
            raise SystemUnavailable(f"The system ended at once, with exit code {process.returncode}: {last}")
        if time.monotonic() > deadline:
            raise SystemUnavailable(f"The system was not ready within {READY_SECONDS:.0f} s. Look into {log}.")
        time.sleep(POLL_SECONDS)


def _wait_for_running() -> dict[str, Any]:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        running: dict[str, Any] | None = status()["up"]
        if running is None:
            raise SystemUnavailable("The system that was running has stopped. Try again.")
        if running["ready"]:
            return running
        time.sleep(POLL_SECONDS)
    raise SystemUnavailable(f"The system was not ready within {READY_SECONDS:.0f} s. Look into its output.")


def _address(running: dict[str, Any], url: str | None) -> str:
    if url or running["web"]:
        return url or str(running["web"])
    raise SystemUnavailable("The running system has no web server (--no-web). Say where one answers with --url.")
