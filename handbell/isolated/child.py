"""What a launch's own process does, between the fork and its end: run the task, and write its outcome to a pipe."""

import asyncio
import ctypes
import gc
import inspect
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from celery import current_app

from handbell.common.child_process import die_with_parent
from handbell.common.codec import decode_arguments, encode, encode_error, encode_result, formatted_traceback
from handbell.errors import ResultTooLarge, UnknownTask
from handbell.isolated.cgroups import enter
from handbell.isolated.process_labels import LABEL_VARIABLE, ProcessLabel
from handbell.isolated.protocol import LaunchOrder

MAX_RESULT_CHARACTERS = 2**20  # of JSON
RESULT_FD = 3  # the file descriptor that the outcome is written to
NICENESS = 5  # however busy launches are, the fork server, which watches their deadlines, gets a processor first
OOM_SCORE = b"500"  # if the machine runs out of memory, launches are killed first
SERVER_ONLY_VARIABLES = ("PYTHONMALLOC", "GLIBC_TUNABLES")  # what the fork server itself was started with


class ServerContext(NamedTuple):
    """What the fork server hands to each child: its own pid and name, its limits on open files when it was started, the
    size of its data, the address of its label in the memory that the kernel shows as the environment, and the child's
    control group, if it has one.
    """

    pid: int
    open_files: tuple[int, int]
    data_bytes: int
    name: str
    label_address: int | None
    group: Path | None = None


def run_launch(order: LaunchOrder, pipes: tuple[int, int, int], mark: bytes, server: ServerContext) -> NoReturn:
    """Run the task in this process, which was just forked, and end it. The pipes are for its standard output, its
    standard error, and its outcome, which comes after `mark`: the task may write to that pipe, too.
    """
    code = 1
    try:
        _detach_from_server(order, pipes, server)
        message, code = run_order(order)
        _flush()
        _write_message(mark + encode(message).encode())
    except BaseException:  # noqa: BLE001  (there is nobody to raise it to)
        with suppress(BaseException):
            traceback.print_exc()
            _flush()
    finally:
        os._exit(code)


def _detach_from_server(order: LaunchOrder, pipes: tuple[int, int, int], server: ServerContext) -> None:
    if server.group is not None:
        enter(server.group)
    os.setsid()
    os.nice(NICENESS)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != server.pid:
        os._exit(1)  # it died before the line above
    _take_pipes(*pipes)
    resource.setrlimit(resource.RLIMIT_NOFILE, server.open_files)
    max_data_bytes = server.data_bytes + order.memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (max_data_bytes, max_data_bytes))
    with suppress(OSError):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, OOM_SCORE)
        os.close(score)
    _set_label(ProcessLabel(server.name, order.id).text(), server.label_address)
    gc.enable()


def _take_pipes(stdout: int, stderr: int, result: int) -> None:
    """Have the pipes as 1, 2 and 3, nothing to read as 0, and nothing else open: above all no other launch's pipes."""
    stdin = os.open(os.devnull, os.O_RDONLY)
    copies = [os.dup(descriptor) for descriptor in (stdin, stdout, stderr, result)]  # out of the way of 0 to 3
    for number, copy in enumerate(copies):
        os.dup2(copy, number, inheritable=number != RESULT_FD)
    os.closerange(RESULT_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _set_label(label: str, address: int | None) -> None:
    """Set it in the environment that programs get, and where the kernel shows it of this process and those it forks."""
    os.environ[LABEL_VARIABLE] = label
    for name in SERVER_ONLY_VARIABLES:
        os.environ.pop(name, None)
    if address is not None:
        ctypes.memmove(address, label.encode(), len(label))


def run_order(order: LaunchOrder) -> tuple[dict[str, Any], int]:
    """Run the task; the message with its outcome (`outcomes.ended_by_itself` reads it), and the exit code."""
    try:
        return {"result": _call_task(order)}, 0
    except SystemExit as exit_request:
        if exit_request.code in {None, 0}:
            return {"result": "null"}, 0
        code = exit_request.code if isinstance(exit_request.code, int) else 1
        return {"exit": code, **_error_message(exit_request)}, code & 0xFF
    except MemoryError as error:
        return {"out_of_memory": True, **_error_message(error)}, 1
    except BaseException as error:  # noqa: BLE001  (whatever it is, it is the task's own)
        return _error_message(error), 1


def _call_task(order: LaunchOrder) -> str:
    """What the task returned, as JSON.

    Raises:
        UnknownTask: there is none of that name.
        NotJson: JSON cannot hold what it returned.
        ResultTooLarge: it returned too much.
    """
    task: Any = current_app.tasks.get(order.task)
    if task is None:
        raise UnknownTask(f"This deployment has no task called {order.task}. Deploy it, then launch again.")
    args, kwargs = decode_arguments(order.arguments)
    if not isinstance(type(task).__dict__.get("run"), staticmethod):  # declared with bind=True: it may look at itself
        delivery = {"routing_key": task.queue}
        task.push_request(id=order.task_id, args=args, kwargs=kwargs, called_directly=False, delivery_info=delivery)
    result = task.run(*args, **kwargs)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    text = encode_result(order.task, result)
    if len(text) > MAX_RESULT_CHARACTERS:
        raise ResultTooLarge(
            f"{order.task} returned {len(text):,} characters of JSON; {MAX_RESULT_CHARACTERS:,} are kept. "
            "Store it, and return where."
        )
    return text


def _error_message(error: BaseException) -> dict[str, Any]:
    return {
        "error": encode_error(error),
        "traceback": formatted_traceback(error),
        "sentence": f"{type(error).__name__}: {error}".rstrip(": "),
    }


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _write_message(message: bytes) -> None:
    while message:
        message = message[os.write(RESULT_FD, message) :]
