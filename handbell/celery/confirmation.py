"""Workers that run nothing but what the ledger confirms: `HANDBELL_UNRECORDED_CALLS = "refuse"`.

Whoever can write to the broker can send a message with any content. Then a message is no more than a doorbell: its call
must be recorded, and all that it says is taken from its row.
"""

import logging
from typing import Any

from celery.app.task import Context
from celery.exceptions import Ignore

from handbell.celery.call_run import CallRun
from handbell.common.outages import retry_through_outage
from handbell.conf import conf
from handbell.errors import CallRefused
from handbell.isolated.doorbell import SUPERVISE
from handbell.models import Call
from handbell.parallel.doorbell import WORK
from handbell.plain import sql
from handbell.plain.batching import RUN_BATCH
from handbell.plain.message import Message
from handbell.serial.doorbell import DRAIN

#: Tasks whose messages ring for what is recorded. One that rings for nothing finds nothing to do.
DOORBELLS = frozenset({DRAIN, RUN_BATCH, SUPERVISE, WORK})
logger = logging.getLogger(__name__)


def refuses_unrecorded(task: str) -> bool:
    """Whether calls of this task that are not in the ledger are refused."""
    return conf.UNRECORDED_CALLS == "refuse" and task not in DOORBELLS


def require_recorded(task: str) -> None:
    """
    Raises:
        CallRefused: no worker would run an unrecorded call of this task.
    """
    if refuses_unrecorded(task):
        raise CallRefused(
            f"{task} is not called: no row would confirm it, and HANDBELL_UNRECORDED_CALLS is 'refuse'. Leave out "
            "ignore_result, and keep results in the database."
        )


def drop_unrecorded(task: str, task_id: str) -> None:
    """
    Raises:
        celery.exceptions.Ignore: the message is of a call that nobody has recorded, and such are refused.
    """
    if refuses_unrecorded(task):
        logger.warning("%s %s is refused: its call is not recorded in the ledger.", task, task_id)
        raise Ignore


def confirmed_arguments(task: str, request: Context, run: CallRun) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call that this process has claimed, as they are recorded; the request gets everything else
    from there, too: what is linked, chained and counted.

    Raises:
        celery.exceptions.Ignore: the call is of another task. It is given back.
    """
    row = Call.objects.values_list("message", flat=True)
    recorded = Message.from_json(retry_through_outage(lambda: row.get(task_id=request.id))).request()
    if recorded["task"] != task:
        logger.warning("%s %s is refused: what is recorded is a call of %s.", task, request.id, recorded["task"])
        sql.release_call(str(request.id), run.claim_token, crashed=False)
        raise Ignore
    del recorded["delivery_info"]
    request.update(recorded)
    return list(recorded["args"]), dict(recorded["kwargs"])
