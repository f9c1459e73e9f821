"""Isolated tasks that behave, and others that do not; a worker takes them with `--include=tests.launches`."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db import connection, connections

from handbell import isolated_task
from handbell.models import Launch
from tasks_app.models import Score
from tests.servers import wait_for

WAIT_SECONDS = 50.0  # for what takes a moment, on a machine that does other things, too


@isolated_task(timeout=30)
def nothing(value: Any = None) -> Any:
    return value


@isolated_task(timeout=30, bind=True)
def who_am_i(self: Any) -> list[Any]:
    return [self.request.id, self.name]


@isolated_task(timeout=1)
def hang(value: Any = None) -> None:
    while True:
        time.sleep(60)


@isolated_task(timeout=60)
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@isolated_task(timeout=60)
def wait_for_file(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


@isolated_task(timeout=1)
def say_and_hang(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)
    time.sleep(60)


@isolated_task(timeout=1)
def busy_in_c() -> None:
    """One call into C that does not come back, and does not look at signals."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    re.match(r"(a+)+$", "a" * 60 + "b")


@isolated_task(timeout=1, grace=0.3)
def stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


@isolated_task(timeout=1, grace=5)
def tidy_up(path: str) -> None:
    def leave(number: int, frame: Any) -> None:
        Path(path).write_text("tidy")
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    time.sleep(60)


def detach() -> bool:
    """Fork twice, into a new session: whether this is the grandchild, whom nobody waits for."""
    if os.fork():
        os.wait()
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True


@isolated_task(timeout=2)
def bomb(count: int, returns: bool = False) -> int:
    """Many grandchildren, each in a session of its own, each ignoring TERM; every other one is another program."""
    for number in range(count):
        if detach():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if number % 2:
                os.execvp("sleep", ["sleep", "1000.25"])
            time.sleep(1000)
    while not returns:
        time.sleep(60)
    return count


@isolated_task(timeout=60)
def crowd(count: int) -> None:
    """Many children that do nothing."""
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(1000)
    time.sleep(1000)


@isolated_task(timeout=30)
def scribble() -> str:
    """Write to every file that is open."""
    for descriptor in range(3, 10):
        with suppress(OSError):
            os.write(descriptor, b'{"result": "another one"}\n' * 1000)
    return "the real one"


@isolated_task(timeout=60)
def escape(sleep_seconds: str, path: str) -> None:
    """Start a daemon that has thrown away its environment, its session and its parents, and say so; then wait."""
    subprocess.run(["setsid", "--fork", "sleep", sleep_seconds], env={"PATH": os.environ["PATH"]}, check=True)
    Path(f"{path}.escaped").touch()
    wait_for_file.run(path)


@isolated_task(timeout=30)
def leave_a_child_with_the_pipes() -> str:
    subprocess.Popen(["sleep", "1000.5"])
    return "gone"


@isolated_task(timeout=30, memory_mb=64)
def hog() -> int:
    return len(bytearray(2**30))


@isolated_task(timeout=30, memory_mb=100)
def hogs(each_mb: int) -> None:
    """Four processes, each of them below the limit."""
    for _ in range(4):
        if os.fork() == 0:
            kept = bytearray(os.urandom(1024) * each_mb * 1024)
            time.sleep(60)
            del kept
    time.sleep(60)


@isolated_task(timeout=30)
def segfault() -> None:
    ctypes.string_at(0)


@isolated_task(timeout=30)
def leave(code: int, *, politely: bool) -> None:
    if politely:
        sys.exit(code)
    os._exit(code)


@isolated_task(timeout=30)
def fail(text: str) -> None:
    raise ValueError(text)


@isolated_task(timeout=30)
def chatter(size: int) -> None:
    os.write(1, b"begin")
    for _ in range(size // 1024):
        os.write(1, b"x" * 1024)
    os.write(1, b"end")


@isolated_task(timeout=30)
def give(size: int) -> str:
    return "x" * size


@isolated_task(timeout=30)
def not_json() -> object:
    return object()


@isolated_task(timeout=30)
def surroundings() -> dict[str, Any]:
    """What a launch finds when it begins."""
    return {
        "files": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],  # noqa: PTH208  (the last: its own)
        "leads_its_session": os.getsid(0) == os.getpid() == os.getpgrp(),
        "connected": [c.alias for c in connections.all(initialized_only=True) if c.connection],
        "variables": sorted(name for name in os.environ if name in {"PYTHONMALLOC", "GLIBC_TUNABLES"}),
    }


@isolated_task(timeout=30)
def use_the_database(item: int) -> int:
    Score.objects.create(item=item, value=item)
    assert connection.connection is not None
    return Score.objects.count()


@isolated_task(timeout=30)
async def use_the_database_async(item: int) -> int:
    await Score.objects.acreate(item=item, value=item)
    return await Score.objects.acount()


@isolated_task(timeout=30)
def note(path: str, seconds: float = 0.0) -> None:
    """Leaves a line in a file, so that one can count how often it was started."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)


# --- Called by tests in a system (`system.call`) ----------------------------------------------------------------------


def statuses() -> list[str]:
    """The states of all launches, in their order."""
    return list(Launch.objects.order_by("id").values_list("status", flat=True))


def wait_until(*expected: str) -> list[str]:
    """Wait until all launches, in their order, stand as expected; or all alike, if only one word is given."""

    def is_as_expected() -> bool:
        found = statuses()
        return found == list(expected) or (len(expected) == 1 and set(found) == set(expected))

    wait_for(is_as_expected, f"all are {expected}", WAIT_SECONDS)
    return statuses()


def launch_nothing(count: int) -> None:
    nothing.launch_many(range(count))


def run_nothing() -> Any:
    """What a launch returned that was started now."""
    return nothing.delay(1).get(timeout=WAIT_SECONDS)


def wait_until_lost_and_run_another() -> str:
    """Wait until all are lost; the reason of the first one, once another has run."""
    wait_until("lost")
    assert run_nothing() == 1
    return Launch.objects.order_by("id")[0].reason
