"""What each worker does beside its work: say that it is alive, and see to what its children leave undone.

A thread in the main process, from the start to the very end, so that a database that does not answer holds up nothing
else.
"""

import logging
import threading
from datetime import timedelta
from typing import Any

from celery import current_app, signals
from celery.app.task import Context
from celery.signals import worker_init, worker_ready, worker_shutdown
from celery.worker.request import Request
from django.conf import settings
from django.db import Error, connection
from django.db.models import Q
from django.utils import timezone

from tasks_app.errors import ProcessDied
from tasks_app.forking import unforked
from tasks_app.models import Call, Worker
from tasks_app.plain import ledger
from tasks_app.plain.ledger import RUN_TOGETHER, Process
from tasks_app.plain.message import Message
from tasks_app.plain.sending import publish
from tasks_app.plain.undone import undone

BEATS = 5  # in the time after which a silent worker is given up
logger = logging.getLogger(__name__)
_name = "a worker"


@worker_init.connect
def register(sender: Any = None, **kwargs: Any) -> None:
    """Before the first child is forked, and closed again: a connection is not for children."""
    global _name  # noqa: PLW0603  (one worker per process)
    _name = getattr(sender, "hostname", None) or _name
    try:
        _beat()
    except Error as error:
        logger.warning("The database does not answer yet: %s", str(error).strip())
    connection.close()


@worker_ready.connect
def start(**kwargs: Any) -> None:
    undone.kept = True
    threading.Thread(target=_keep, name="keeper", daemon=True).start()


@worker_shutdown.connect
def leave(**kwargs: Any) -> None:
    """What this worker has not finished is for others now, and nobody died of it."""
    try:
        Worker.objects.filter(pk=Process.id).delete()
        ours = Q(worker=Process.id) | Q(worker__startswith=f"{Process.id}#")
        for task_id, worker in list(Call.objects.filter(ours).values_list("task_id", "worker")):
            ledger.release(task_id, worker, died=False)
    except Error as error:
        logger.warning("The database was not told that this worker leaves: %s", str(error).strip())


def process_died(request: Request, error: BaseException) -> None:
    """A child process is gone with its task."""
    how = f"it called sys.exit({error})" if isinstance(error, SystemExit) else str(error).rstrip(".")
    reason = f"the process that ran it died: {how}"
    if request.name == RUN_TOGETHER:
        undone.see_to(lambda: _give_back_all(Process.child(request.worker_pid), reason))
    else:
        undone.see_to(lambda: give_back(request.id, Process.id, reason))


def _give_back_all(child: str, reason: str) -> None:
    for task_id in list(Call.objects.filter(worker=child).order_by("id").values_list("task_id", flat=True)):
        give_back(task_id, child, reason)


def give_back(task_id: str, worker: str, reason: str) -> None:
    """Have a task run again whose process died, unless too many have died of it: then it is lost."""
    deaths = ledger.release(task_id, worker, died=True)
    call = Call.objects.filter(task_id=task_id, worker="").first() if deaths is not None else None
    if call is None or deaths is None:
        return  # it had ended
    message = Message.from_json(call.message)
    name = message.headers["task"]
    task = current_app.tasks.get(name)
    most = getattr(task, "max_deaths", 1)
    if deaths < most:
        logger.warning("%s %s runs again: %s.", name, task_id, reason)
        publish(message)
        return
    lost = ProcessDied(f"lost: {reason}, as it did before, {deaths} times in all" if deaths > 1 else f"lost: {reason}")
    logger.error("%s %s is %s.", name, task_id, lost)
    context = Context(message.request())
    current_app.backend.mark_as_failure(task_id, lost, request=context)
    signals.task_failure.send(
        sender=task,
        task_id=task_id,
        exception=lost,
        args=context.args,
        kwargs=context.kwargs,
        traceback=None,
        einfo=None,
    )


def lease() -> timedelta:
    return timedelta(seconds=settings.PLAIN_LEASE_SECONDS)


def _keep() -> None:
    while True:
        undone.called.wait(lease().total_seconds() / BEATS)
        undone.called.clear()
        try:
            with unforked():
                _beat()
                undone.do()
        except Error as error:
            logger.warning("The keeper could not write: %s. It tries again in a moment.", str(error).strip())
            connection.close()
        except Exception:
            logger.exception("The keeper failed.")


def _beat() -> None:
    now = timezone.now()
    Worker.objects.bulk_create(
        [Worker(id=Process.id, name=_name, seen_at=now)],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["seen_at"],
    )
