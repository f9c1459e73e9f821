"""Calling a plain task: its rows are written in the caller's transaction, its message is sent after the commit."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from celery.utils import uuid
from django.db import transaction
from django.utils import timezone

from tasks_app.plain import ledger
from tasks_app.plain.message import Message, Recorder
from tasks_app.plain.results import DatabaseBackend
from tasks_app.plain.sending import publish
from tasks_app.plain.task import records
from tasks_app.plain.together import may_be_together, ring

Send = Callable[..., AsyncResult[Any]]
logger = logging.getLogger(__name__)


def send_task(
    app: Celery,
    send: Send,
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    **options: Any,
) -> AsyncResult[Any]:
    """Take the place of `send`, Celery's own `send_task`: record the call, and have its message sent after the commit.

    What is not recorded (see `records`) is sent after the commit, too, as Celery sends it.

    Raises:
        kombu.exceptions.EncodeError: the arguments are not what the serializer can hold.
    """
    task = options.get("task_type") or app.tasks.get(name)
    if not records(task, options.get("ignore_result")) or options.get("connection"):
        return _send_barely(app, send, name, args, kwargs, **options)
    again = _again(app, options.get("task_id"))
    options.update(task_id=options.get("task_id") or uuid(), producer=(recorder := Recorder()), retry=False)
    result = send(name, args, kwargs, **options)
    assert recorder.published is not None
    _enqueue(app, task, recorder.published, again)
    return result


def _send_barely(app: Celery, send: Send, *call: Any, **options: Any) -> AsyncResult[Any]:
    producer = options.pop("producer", None)
    if options.get("connection"):
        return send(*call, **options)
    if producer is not None and not isinstance(producer, Recorder):
        return send(*call, producer=producer, **options)
    result = send(*call, **{**options, "producer": (recorder := Recorder()), "retry": False})
    assert recorder.published is not None
    transaction.on_commit(partial(_publish_barely, app, recorder.published))
    return result


def _publish_barely(app: Celery, message: Message) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        message.publish(app, producer, retry=True, retry_policy=app.conf.task_publish_retry_policy)


def _again(app: Celery, task_id: str | None) -> str:
    """What a call with an id that is there already means.

    Within a task, such ids are those of a canvas, frozen when it was made: a second run of the same step starts
    nothing twice. A task's own id is a retry, or what takes its place. From elsewhere it is somebody's wish to run
    the task again.
    """
    if task_id is None:
        return ledger.NEW
    task = app.current_worker_task
    if task is None:
        return ledger.NEW_OR_ENDED
    return ledger.ITSELF if task.request.id == task_id else ledger.NEW


def _enqueue(app: Celery, task: Any, message: Message, again: str) -> None:
    backend = app.backend
    assert isinstance(backend, DatabaseBackend)
    now, headers = timezone.now(), message.headers
    retried = again == ledger.ITSELF and headers.get("retries")
    held = ledger.is_held(message)
    send_after = message.eta - ledger.EARLY if message.eta and held else now + ledger.SEND_PATIENCE
    row = backend.row_of_call(headers, message.queue, headers.get("periodic_task_name"))
    together = headers["task"] if may_be_together(task, message) else ""
    if not ledger.enqueue(row, message.queue, message.as_json(), send_after, again, together):
        logger.info("%s %s was called before; nothing is sent twice.", headers["task"], headers["id"])
    elif together:
        transaction.on_commit(lambda: ring(together, message.queue), robust=True)
    elif not held and not retried:  # a retry's is sent when the run that asks for it has ended
        transaction.on_commit(lambda: publish(message), robust=True)
