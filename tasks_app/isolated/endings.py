"""How a launch ended, in a word and in a sentence."""

import json
import os
import signal
from typing import Any, NamedTuple

from billiard.exceptions import TimeLimitExceeded
from celery.exceptions import TaskRevokedError

from tasks_app import states
from tasks_app.children import describe_exit
from tasks_app.errors import ProcessDied
from tasks_app.isolated.child import describe


class Verdict(NamedTuple):
    """`error` is JSON as Celery's result backends store it."""

    status: str
    reason: str
    result: str | None
    traceback: str | None = None
    exit_code: int | None = None


def by_itself(exit_status: int, outcome: bytes, seconds: float) -> Verdict:
    """It has ended of its own accord: with what it wrote as its outcome, if it came to that."""
    code = os.waitstatus_to_exitcode(exit_status)
    said = _decoded(outcome)
    after = f"after {seconds:.1f} s"
    if code == 0 and "result" in said:
        return Verdict(states.SUCCEEDED, f"returned {after}", said["result"], None, 0)
    if said.get("out_of_memory"):
        reason = f"{said['sentence']}, {after}: it had reached its memory limit"
        return Verdict(states.OUT_OF_MEMORY, reason, said["error"], said["traceback"], code)
    if "exit" in said:
        reason = f"exited with code {code} {after}"
        return Verdict(states.FAILED, reason, error(ProcessDied(reason)), said["traceback"], code)
    if "error" in said:
        return Verdict(states.FAILED, f"{said['sentence']}, {after}", said["error"], said["traceback"], code)
    if code >= 0:
        reason = f"exited with code {code} {after}, without returning"
    else:
        core = " and left a core dump" if os.WCOREDUMP(exit_status) else ""
        reason = f"{describe_exit(code)}{core}, {after}"
        if code == -signal.SIGKILL:
            reason += "; the kernel does this to a process when the machine runs out of memory"
    return Verdict(states.FAILED, reason, error(ProcessDied(reason)), None, code)


def at_its_deadline(timeout: float, *, by_force: bool, exit_status: int) -> Verdict:
    how = "it ignored TERM and was killed" if by_force else "it went at TERM"
    code = os.waitstatus_to_exitcode(exit_status)
    reason = f"ended at its deadline of {timeout:g} s: {how}"
    return Verdict(states.TIMED_OUT, reason, error(TimeLimitExceeded(timeout)), None, code)


def out_of_memory(used_mb: float, memory_mb: int, seconds: float, exit_status: int) -> Verdict:
    reason = f"killed after {seconds:.1f} s: it used {used_mb:,.0f} MiB, and may use {memory_mb:,}"
    code = os.waitstatus_to_exitcode(exit_status)
    return Verdict(states.OUT_OF_MEMORY, reason, error(MemoryError(reason)), None, code)


def cancelled(seconds: float, exit_status: int) -> Verdict:
    code = os.waitstatus_to_exitcode(exit_status)
    return Verdict(states.CANCELLED, f"cancelled after {seconds:.1f} s", CANCELLED_ERROR, None, code)


def stopped(seconds: float, exit_status: int) -> Verdict:
    reason = f"ended after {seconds:.1f} s, because its worker was told to stop"
    return Verdict(states.LOST, reason, error(ProcessDied(reason)), None, os.waitstatus_to_exitcode(exit_status))


def not_started(was_cancelled: bool) -> Verdict:
    if was_cancelled:
        return Verdict(states.CANCELLED, "cancelled before it began", CANCELLED_ERROR)
    reason = "not started, because its worker was told to stop"
    return Verdict(states.LOST, reason, error(ProcessDied(reason)))


def could_not_start(problem: OSError) -> Verdict:
    reason = f"could not be started: {problem.strerror}. Lower LAUNCH_CONCURRENCY, or raise the machine's limits"
    return Verdict(states.FAILED, reason, error(ProcessDied(reason)))


def error(what: BaseException) -> str:
    return json.dumps(describe(what))


CANCELLED_ERROR = error(TaskRevokedError("cancelled"))


def _decoded(outcome: bytes) -> dict[str, Any]:
    try:
        said = json.loads(outcome)
    except ValueError:  # it was killed while it wrote, or something else has written
        return {}
    return said if isinstance(said, dict) else {}
