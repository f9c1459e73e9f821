"""By which ids calls of plain tasks are claimed: that of the worker's main process, which its children inherit."""

import os

from handbell.common.process_id import process_id

WORKER_ID = process_id()
MAIN_PID = os.getpid()


def child_claimant(pid: object) -> str:
    """The id by which one process of this worker claims several calls at once."""
    return f"{WORKER_ID}#{pid}"


def worker_of(claimant: str) -> str:
    """The id of the worker that a claimant, which may be one of its children, belongs to."""
    return claimant.partition("#")[0]


def is_main_process() -> bool:
    """Whether this is the process that loaded the module: the worker's own, and none of its children."""
    return os.getpid() == MAIN_PID
