"""What happens in the fresh process of a launch, between the fork and its end."""

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from celery import current_app
from celery.utils.serialization import ensure_serializable

from tasks_app.children import die_with_parent
from tasks_app.errors import NotJson, ResultTooLarge, UnknownTask
from tasks_app.isolated.messages import Order
from tasks_app.isolated.processes import MARK

MOST_RESULT = 2**20  # characters of JSON
MOST_TRACEBACK = 20_000
RESULT = 3  # the file descriptor that the outcome is written to
NICE = 5  # however busy launches are, who watches their deadlines gets a processor first
NOT_FOR_CHILDREN = ("PYTHONMALLOC", "GLIBC_TUNABLES")  # what the forker itself was started with
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Surroundings(NamedTuple):
    """What the forker hands to each child: its own number, the limits it started with, and where its mark stands."""

    pid: int
    open_files: tuple[int, int]
    data: int
    mark: str
    mark_address: int | None


def become(order: Order, stdout: int, stderr: int, outcome: int, around: Surroundings) -> NoReturn:
    """Be the launch's process from here on, to its end."""
    code = 1
    try:
        _leave_the_forker(order, (stdout, stderr, outcome), around)
        message, code = _outcome(order)
        _flush()
        _write(_encode(message).encode())
    except BaseException:  # noqa: BLE001  (there is nobody to raise it to)
        with suppress(BaseException):
            traceback.print_exc()
            _flush()
    finally:
        os._exit(code)


def _leave_the_forker(order: Order, pipes: tuple[int, int, int], around: Surroundings) -> None:
    os.setsid()
    os.nice(NICE)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != around.pid:
        os._exit(1)  # it has died before this was said
    _take_pipes(*pipes)
    resource.setrlimit(resource.RLIMIT_NOFILE, around.open_files)
    memory = around.data + order.memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with suppress(OSError):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"500")  # if the machine runs out of memory, this goes first
        os.close(score)
    _carry_the_mark(f"{around.mark}:{order.id:<20}", around.mark_address)
    gc.enable()


def _take_pipes(stdout: int, stderr: int, outcome: int) -> None:
    """Have the pipes as 1, 2 and 3, nothing to read as 0, and nothing else: above all no other launch's pipes."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    kept = [os.dup(one) for one in (nothing, stdout, stderr, outcome)]  # out of the way of 0 to 3
    for number, one in enumerate(kept):
        os.dup2(one, number, inheritable=number != RESULT)
    os.closerange(RESULT + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _carry_the_mark(mark: str, address: int | None) -> None:
    """In the environment that programs get, and where the kernel shows it of this process and those it forks."""
    os.environ[MARK] = mark
    for name in NOT_FOR_CHILDREN:
        os.environ.pop(name, None)
    if address is not None:
        ctypes.memmove(address, mark.encode(), len(mark))


def _outcome(order: Order) -> tuple[dict[str, Any], int]:
    """Run the task. What came of it, and the exit code."""
    try:
        return {"result": _result(order)}, 0
    except SystemExit as leave:
        if leave.code in {None, 0}:
            return {"result": "null"}, 0
        code = leave.code if isinstance(leave.code, int) else 1
        return {"exit": code, **failure(leave)}, code & 0xFF
    except MemoryError as error:
        return {"out_of_memory": True, **failure(error)}, 1
    except BaseException as error:  # noqa: BLE001  (whatever it is, it is the task's own)
        return failure(error), 1


def _result(order: Order) -> str:
    task: Any = current_app.tasks.get(order.task)
    if task is None:
        raise UnknownTask(f"This deployment has no task called {order.task}. Deploy it, then launch again.")
    args, kwargs = json.loads(order.arguments)
    if not isinstance(type(task).__dict__.get("run"), staticmethod):  # declared with bind=True: it may look at itself
        delivery = {"routing_key": task.queue}
        task.push_request(id=order.task_id, args=args, kwargs=kwargs, called_directly=False, delivery_info=delivery)
    result = task.run(*args, **kwargs)
    try:
        text = _encode(result)
    except (TypeError, ValueError) as error:
        raise NotJson(f"{order.task} returned what JSON cannot hold: {error}.") from error
    if len(text) > MOST_RESULT:
        raise ResultTooLarge(
            f"{order.task} returned {len(text):,} characters of JSON; {MOST_RESULT:,} are kept. Store it, and return "
            "where."
        )
    return text


def failure(error: BaseException) -> dict[str, Any]:
    """An error as Celery's result backends store one, so that `AsyncResult.get()` raises it again."""
    trace = "".join(traceback.format_exception(error))[-MOST_TRACEBACK:]
    return {
        "error": _encode(describe(error)),
        "traceback": trace,
        "sentence": f"{type(error).__name__}: {error}".rstrip(": "),
    }


def describe(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    arguments = ensure_serializable(list(error.args), _encode)
    return {"exc_type": kind.__name__, "exc_message": arguments, "exc_module": kind.__module__}


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _write(message: bytes) -> None:
    while message:
        message = message[os.write(RESULT, message) :]
