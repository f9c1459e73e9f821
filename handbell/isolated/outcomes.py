"""The outcome of a launch, for the ledger: its state, the reason in one sentence, and its result or its error.

One function for each way in which a launch may end. Times are in seconds, memory in MiB.
"""

import json
import os
import signal
from typing import Any, NamedTuple

from billiard.exceptions import TimeLimitExceeded
from celery.exceptions import TaskRevokedError

from handbell import states
from handbell.common.child_process import describe_exit
from handbell.common.codec import encode_error
from handbell.errors import ProcessDied
from handbell.isolated.cgroups import MAX_LAUNCH_PROCESSES
from handbell.isolated.protocol import LaunchReport

CANCELLED_ERROR = encode_error(TaskRevokedError("cancelled"))


class LaunchOutcome(NamedTuple):
    """`result` is JSON: what the task returned, or the error as Celery's result backends store one."""

    status: str
    reason: str
    result: str | None
    traceback: str | None = None
    exit_code: int | None = None


def ended_by_itself(exit_status: int, message: bytes, seconds: float) -> LaunchOutcome:
    """Its process ended by itself; `message` is its outcome, if it could still write that (`child.run_order`)."""
    code = os.waitstatus_to_exitcode(exit_status)
    said = _decoded(message)
    after = f"after {seconds:.1f} s"
    if code == 0 and "result" in said:
        return LaunchOutcome(states.SUCCEEDED, f"returned {after}", said["result"], None, 0)
    if said.get("out_of_memory"):
        reason = f"{said['sentence']}, {after}: it had reached its memory limit"
        return LaunchOutcome(states.OUT_OF_MEMORY, reason, said["error"], said["traceback"], code)
    if "exit" in said:
        return _died(states.FAILED, f"exited with code {code} {after}", code, said["traceback"])
    if "error" in said:
        return LaunchOutcome(states.FAILED, f"{said['sentence']}, {after}", said["error"], said["traceback"], code)
    if code >= 0:
        return _died(states.FAILED, f"exited with code {code} {after}, without returning", code)
    core = " and left a core dump" if os.WCOREDUMP(exit_status) else ""
    reason = f"{describe_exit(code)}{core}, {after}"
    if code == -signal.SIGKILL:
        reason += "; the kernel does this to a process when the machine runs out of memory"
    return _died(states.FAILED, reason, code)


def timed_out(timeout: float, *, was_killed: bool, exit_status: int) -> LaunchOutcome:
    """It was ended at its deadline."""
    how = "it ignored TERM and was killed" if was_killed else "it ended at TERM"
    reason = f"ended at its deadline of {timeout:g} s: {how}"
    code = os.waitstatus_to_exitcode(exit_status)
    return LaunchOutcome(states.TIMED_OUT, reason, encode_error(TimeLimitExceeded(timeout)), None, code)


def out_of_memory(used_mb: float, memory_mb: int, seconds: float, exit_status: int) -> LaunchOutcome:
    """It was killed because it used more memory than it may."""
    reason = f"killed after {seconds:.1f} s: it used {used_mb:,.0f} MiB, and may use {memory_mb:,}"
    code = os.waitstatus_to_exitcode(exit_status)
    return LaunchOutcome(states.OUT_OF_MEMORY, reason, encode_error(MemoryError(reason)), None, code)


def too_many_processes(count: int, seconds: float, exit_status: int) -> LaunchOutcome:
    """It was killed because it had started more processes than it may."""
    reason = f"killed after {seconds:.1f} s: it had {count:,} processes, and may have {MAX_LAUNCH_PROCESSES:,}"
    return _died(states.FAILED, reason, os.waitstatus_to_exitcode(exit_status))


def cancelled(seconds: float, exit_status: int) -> LaunchOutcome:
    """It was ended because somebody cancelled it."""
    code = os.waitstatus_to_exitcode(exit_status)
    return LaunchOutcome(states.CANCELLED, f"cancelled after {seconds:.1f} s", CANCELLED_ERROR, None, code)


def stopped(seconds: float, exit_status: int) -> LaunchOutcome:
    """It was ended because its worker stops."""
    reason = f"ended after {seconds:.1f} s, because its worker was told to stop"
    return _died(states.LOST, reason, os.waitstatus_to_exitcode(exit_status))


def not_started(*, was_cancelled: bool) -> LaunchOutcome:
    """It was claimed, and then cancelled, or its worker told to stop, before it was started."""
    if was_cancelled:
        return LaunchOutcome(states.CANCELLED, "cancelled before it began", CANCELLED_ERROR)
    return _died(states.LOST, "not started, because its worker was told to stop")


def could_not_start(problem: OSError) -> LaunchOutcome:
    """There was no process or no pipe for it."""
    fix = "Lower HANDBELL_LAUNCH_CONCURRENCY, or raise the machine's limits"
    return _died(states.FAILED, f"could not be started: {problem.strerror}. {fix}")


def _died(status: str, reason: str, exit_code: int | None = None, traceback: str | None = None) -> LaunchOutcome:
    return LaunchOutcome(status, reason, encode_error(ProcessDied(reason)), traceback, exit_code)


def _decoded(message: bytes) -> dict[str, Any]:
    try:
        said = json.loads(message)
    except ValueError:  # it was killed while it wrote, or something else has written
        return {}
    return said if isinstance(said, dict) else {}


def without_content(report: LaunchReport, error: Exception) -> LaunchReport:
    """What is recorded of a launch whose outcome the database does not take."""
    reason = f"its outcome could not be stored: {type(error).__name__}"
    return report._replace(
        status=states.FAILED,
        reason=reason,
        result=encode_error(error),
        traceback=None,
        stdout="",
        stderr="",
    )
