"""Claims: who owns one, and the random token without which nothing is written for it.

A token is new at each claim and follows from nothing that a database could forget: one that has lost its last commits
in a crash may hand out the same primary key or counter again, and a late owner would pass for the new one.
"""

import os
import secrets

from handbell.common.process_id import process_id

TOKEN_BITS = 63  # as many as fit into a bigint
WORKER_ID = process_id()  # of the worker's main process, which its children inherit
MAIN_PID = os.getpid()


def new_claim_token() -> int:
    """A number that nobody has had before."""
    return secrets.randbits(TOKEN_BITS)


def claim_owner(pid: int | None = None) -> str:
    """By what name a process of this worker claims work; by default this one."""
    return f"{WORKER_ID}#{os.getpid() if pid is None else pid}"


def is_main_process() -> bool:
    """Whether this is the process that loaded the module: the worker's own, and none of its children."""
    return os.getpid() == MAIN_PID
