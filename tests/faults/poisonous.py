"""Tasks that harm whoever runs them, and functions that call them, in the project's shell, as a caller would.

Each call says how it must end. Plain ones go to a queue whose workers run processes.
"""

import ctypes
import logging
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

from celery import shared_task

from handbell import ArgumentsTooLarge, isolated_task, over, serial_task
from tests.faults.workload import history, recorded

MIB = 1 << 20


def segfault() -> None:
    ctypes.string_at(0)


def hang() -> None:
    """One call of a function in C, which gives nobody else in its process a turn."""
    re.match("(a+)+$", "a" * 60 + "b")


# --- The tasks --------------------------------------------------------------------------------------------------------


@shared_task(queue="high")
def crash_plain(call: str) -> None:
    with recorded(call):
        segfault()


@serial_task(key="poison")
def crash_serial(call: str) -> None:
    with recorded(call):
        segfault()


@isolated_task(timeout=10)
def crash_launch(call: str) -> None:
    with recorded(call):
        segfault()


@shared_task(queue="high")
def crash_item(item: int) -> int:
    if item == 13:
        segfault()
    return item


@shared_task(queue="high", time_limit=2)
def hang_plain(call: str) -> None:
    with recorded(call):
        hang()


@serial_task(key="poison", time_limit=2)
def hang_serial(call: str) -> None:
    with recorded(call):
        hang()


@isolated_task(timeout=2)
def hang_launch(call: str) -> None:
    with recorded(call):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        hang()


@shared_task(queue="high")
def exhaust_memory(call: str) -> None:
    with recorded(call):
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2048 * MIB, before[1]))
        try:
            bytearray(4096 * MIB)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


@isolated_task(timeout=20, memory_mb=100)
def exhaust_memory_apart(call: str) -> int:
    with recorded(call):
        hoard = []
        while True:
            hoard.append(os.urandom(MIB))


@shared_task(queue="high")
def flood_log(call: str) -> None:
    with recorded(call):
        for _ in range(20_000):
            logging.getLogger(__name__).warning("x" * 1000)


@shared_task(queue="high")
def give_much(call: str, size: int) -> str:
    with recorded(call):
        return "x" * size


@isolated_task(timeout=60, memory_mb=8192)
def give_much_apart(call: str, size: int) -> str:
    with recorded(call):
        return "x" * size


@shared_task(queue="high")
def take_much(call: str, text: str) -> int:
    with recorded(call):
        return len(text)


@isolated_task(timeout=3)
def fork_bomb(call: str) -> None:
    """Each process starts another two, in sessions of their own, until there are 127 that ignore TERM."""
    with recorded(call):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(6):
            if os.fork() == 0:
                os.setsid()
        time.sleep(600)


@isolated_task(timeout=10)
def leave_daemons(call: str) -> str:
    with recorded(call):
        for _ in range(5):
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                os.execvp("sleep", ["sleep", "600.125"])
            os.wait()
        return call


# --- The calls --------------------------------------------------------------------------------------------------------


def ask(name: str, ledger: str, ends_as: list[str], send: Callable[[str], object], at_most: int = 1) -> None:
    """Make a call that must end in one of these states, after it has begun no more than `at_most` times."""
    call = f"poison-{name}-{time.monotonic_ns()}"
    detail: dict[str, Any] = {"kind": "poison", "shape": name, "ledger": ledger, "ids": [call]}
    history().write("invoked", call=call, caller="poison", ends_as=ends_as, at_most=at_most, **detail)
    try:
        send(call)
    except Exception as error:
        history().write("unsure", call=call, error=f"{type(error).__name__}: {error}"[:300])
    else:
        history().write("acknowledged", call=call)


def crash() -> None:
    ask("crash-plain", "tasks", ["FAILURE"], lambda it: crash_plain.apply_async((it,), task_id=it), at_most=3)
    ask(
        "crash-serial", "operations", ["lost"], lambda it: crash_serial.apply_async((it,), task_id=it), at_most=9
    )  # with others at first
    ask("crash-launch", "launches", ["failed"], lambda it: crash_launch.apply_async((it,), task_id=it))
    ask("crash-item", "jobs", ["failed"], lambda it: over(range(40)).map(crash_item).start("cpu", name=it))


def hang_in_c() -> None:
    ask("hang-plain", "tasks", ["FAILURE"], lambda it: hang_plain.apply_async((it,), task_id=it))
    ask("hang-serial", "operations", ["failed"], lambda it: hang_serial.apply_async((it,), task_id=it), at_most=2)
    ask("hang-launch", "launches", ["timed_out"], lambda it: hang_launch.apply_async((it,), task_id=it))


def want_memory() -> None:
    ask("memory-plain", "tasks", ["FAILURE"], lambda it: exhaust_memory.apply_async((it,), task_id=it))
    ask("memory-launch", "launches", ["out_of_memory"], lambda it: exhaust_memory_apart.apply_async((it,), task_id=it))


def flood() -> None:
    ask("flood", "tasks", ["SUCCESS"], lambda it: flood_log.apply_async((it,), task_id=it))


def be_large() -> None:
    for size in (1, 7):
        text = "x" * size * MIB
        ask(f"take-{size}", "tasks", ["SUCCESS"], lambda it, text=text: take_much.apply_async((it, text), task_id=it))  # type: ignore[misc]
    for size in (8, 64):
        try:
            take_much.delay("refused", "x" * size * MIB)
        except ArgumentsTooLarge:
            continue
        raise AssertionError(f"{size} MiB of arguments were not refused")
    ask("give-plain", "tasks", ["SUCCESS", "FAILURE"], lambda it: give_much.apply_async((it, 64 * MIB), task_id=it))
    ask("give-launch", "launches", ["failed"], lambda it: give_much_apart.apply_async((it, 1024 * MIB), task_id=it))


def fork() -> None:
    ask("fork-bomb", "launches", ["timed_out"], lambda it: fork_bomb.apply_async((it,), task_id=it))
    ask("daemons", "launches", ["succeeded"], lambda it: leave_daemons.apply_async((it,), task_id=it))
