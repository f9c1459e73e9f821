"""What happens when a plain task is called: Celery builds the message, and the ledger gets it instead of the broker."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from celery.utils import uuid
from django.db import transaction

from handbell.celery.backend import DatabaseBackend
from handbell.celery.producer import CapturingProducer
from handbell.celery.task import is_recorded
from handbell.plain import sql
from handbell.plain.batching import can_be_batched
from handbell.plain.enqueue import enqueue_call
from handbell.plain.message import Message
from handbell.plain.outbox import UnrecordedMessage

SendTask = Callable[..., AsyncResult[Any]]


def send_task(
    app: Celery,
    send: SendTask,
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    **options: Any,
) -> AsyncResult[Any]:
    """Take the place of `send`, Celery's own `send_task`: record the call, and have its message sent after the commit.

    What is not recorded (see `is_recorded`) is sent after the commit, too, as Celery sends it.

    Raises:
        kombu.exceptions.EncodeError: the arguments are not what the serializer can hold.
    """
    task = options.get("task_type") or app.tasks.get(name)
    if not is_recorded(task, options.get("ignore_result")) or options.get("connection"):
        return _send_unrecorded(app, send, name, args, kwargs, **options)
    on_conflict = _on_conflict(app, options.get("task_id"))
    options.update(task_id=options.get("task_id") or uuid(), producer=(producer := CapturingProducer()), retry=False)
    result = send(name, args, kwargs, **options)
    assert producer.captured is not None
    _enqueue(app, task, producer.captured, on_conflict)
    return result


def _enqueue(app: Celery, task: Any, message: Message, on_conflict: str) -> None:
    backend = app.backend
    assert isinstance(backend, DatabaseBackend)
    row = backend.new_result_row(message.headers, message.queue, message.headers.get("periodic_task_name"))
    batch_key = str(message.headers["task"]) if can_be_batched(task, message) else ""
    enqueue_call(row, message, on_conflict, batch_key)


def _on_conflict(app: Celery, task_id: str | None) -> str:
    """What a call with an id that is there already means.

    Within a task, such ids are those of a canvas, frozen when it was made: a second run of the same step starts
    nothing twice. A task's own id is a retry, or what takes its place. From elsewhere it is a request to run
    the task again.
    """
    if task_id is None:
        return sql.KEEP_EXISTING
    task = app.current_worker_task
    if task is None:
        return sql.REPLACE_FINISHED
    return sql.REPLACE_UNFINISHED if task.request.id == task_id else sql.KEEP_EXISTING


def _send_unrecorded(app: Celery, send: SendTask, *call: Any, **options: Any) -> AsyncResult[Any]:
    producer = options.pop("producer", None)
    if options.get("connection"):
        return send(*call, **options)
    if producer is not None and not isinstance(producer, CapturingProducer):
        return send(*call, producer=producer, **options)
    result = send(*call, **{**options, "producer": (capturing := CapturingProducer()), "retry": False})
    assert capturing.captured is not None
    transaction.on_commit(UnrecordedMessage(app, capturing.captured))
    return result
