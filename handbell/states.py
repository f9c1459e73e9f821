"""The words for where a piece of work stands, and how Celery's states map to them."""

from celery import states

UNKNOWN = "unknown"
WAITING = "waiting"
QUEUED = "queued"
RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"
TIMED_OUT = "timed_out"
OUT_OF_MEMORY = "out_of_memory"
LOST = "lost"

#: The final states: work in one of these does not change any more, unless somebody retries it.
FINISHED = frozenset({SUCCEEDED, FAILED, CANCELLED, TIMED_OUT, OUT_OF_MEMORY, LOST})

#: Those of work that waits for a worker or has one.
UNFINISHED = (QUEUED, RUNNING)

#: Those of the final ones in which something went wrong.
WENT_WRONG = frozenset({FAILED, TIMED_OUT, OUT_OF_MEMORY, LOST})

#: Celery's name for each state.
TO_CELERY = {
    QUEUED: states.PENDING,
    RUNNING: states.STARTED,
    SUCCEEDED: states.SUCCESS,
    FAILED: states.FAILURE,
    LOST: states.FAILURE,
    TIMED_OUT: states.FAILURE,
    OUT_OF_MEMORY: states.FAILURE,
    CANCELLED: states.REVOKED,
}

_FROM_CELERY = {
    states.PENDING: QUEUED,
    states.RECEIVED: QUEUED,
    states.RETRY: QUEUED,
    states.STARTED: RUNNING,
    states.SUCCESS: SUCCEEDED,
    states.FAILURE: FAILED,
    states.REVOKED: CANCELLED,
    states.IGNORED: CANCELLED,
    states.REJECTED: CANCELLED,
}

#: Celery's states by our word, for filters: {"queued": ["PENDING", …], …}.
CELERY_STATES: dict[str, list[str]] = {}
for _state, _word in _FROM_CELERY.items():
    CELERY_STATES.setdefault(_word, []).append(_state)


def word(celery_state: str) -> str:
    """Our word for a state of Celery's; a task's own custom state counts as running."""
    return _FROM_CELERY.get(celery_state, RUNNING)
