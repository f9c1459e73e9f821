"""What happens when a plain task is called: Celery builds the message, and the ledger gets it instead of the broker."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from celery.utils import uuid
from django.db import transaction
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError
from kombu.serialization import prepare_accept_content

from handbell.arguments import require_text
from handbell.celery.backend import DatabaseBackend
from handbell.celery.call_run import call_run
from handbell.celery.confirmation import require_recorded
from handbell.celery.options import check_call
from handbell.celery.producer import CapturingProducer
from handbell.celery.task import PlainTask, is_recorded
from handbell.common.codec import refuse_large_or_deep
from handbell.plain.batching import may_share_claim
from handbell.plain.enqueue import enqueue_call
from handbell.plain.message import Message
from handbell.plain.outbox import UnrecordedMessage

MAX_REPR_CHARACTERS = 1024  # Celery's own limit for the texts that it makes
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
        TypeError, ValueError: an option makes no sense.
        kombu.exceptions.EncodeError: the arguments are not what the serializer can hold, or not what it can read.
        kombu.exceptions.ContentDisallowed: workers do not accept what the serializer makes.
        NotJson: they are nested too deeply.
        ArgumentsTooLarge: they are larger than `HANDBELL_ARGUMENTS_MB`.
        CallRefused: nothing would confirm the call, and `HANDBELL_UNRECORDED_CALLS` says that then nobody runs it.
    """
    check_call(require_text("The task's name", name), args, kwargs, options)
    task = options.get("task_type") or app.tasks.get(name)
    if not is_recorded(task, options.get("ignore_result")) or options.get("connection"):
        if isinstance(task, PlainTask):
            require_recorded(name)
        return _send_unrecorded(app, send, name, args, kwargs, **options)
    own_producer, capturing = options.get("producer"), CapturingProducer()
    options.update(task_id=options.get("task_id") or uuid(), producer=capturing, retry=False)
    result = send(name, args, kwargs, **options)
    message = capturing.captured
    assert message is not None
    _refuse_what_workers_refuse(app, message)
    if not _is_retry(app, message):
        _enqueue(app, task, message, None if isinstance(own_producer, CapturingProducer) else own_producer)
    return result


def _refuse_what_workers_refuse(app: Celery, message: Message) -> None:
    refuse_large_or_deep(f"The arguments of {message.task}", message.body)
    content_type = message.options["content_type"]
    if content_type not in (prepare_accept_content(app.conf.accept_content) or ()):
        raise ContentDisallowed(
            f"{message.task} is not called: workers do not accept {content_type}. Use another serializer, or add this "
            "one to CELERY_ACCEPT_CONTENT."
        )
    if "__type__" in message.payload:  # which kombu takes for the mark of a value that it has encoded
        try:
            message.request()
        except DecodeError as error:
            raise EncodeError(
                f"{message.task} is not called: no worker could read its arguments ({error}). Pass an object with the "
                'key "__type__" as JSON text.'
            ) from error


def _is_retry(app: Celery, message: Message) -> bool:
    """Whether a running task calls itself with its own id: then it runs again once this run has ended."""
    task = app.current_worker_task
    run = task and task.request.id == message.task_id and call_run(task.request)
    if run:
        run.retry = message
    return bool(run)


def _enqueue(app: Celery, task: Any, message: Message, producer: Any) -> None:
    backend = app.backend
    assert isinstance(backend, DatabaseBackend)
    queue, periodic_task = require_text("queue", message.queue), message.headers.get("periodic_task_name")
    row = backend.new_result_row(message.headers, queue, periodic_task and require_text("The name", periodic_task))
    for name in ("argsrepr", "kwargsrepr"):  # the row has all of it; the headers of a message must fit into one frame
        message.options["headers"][name] = shortened(message.headers[name])
    enqueue_call(row, message, is_shared=may_share_claim(task, message), producer=producer)


def shortened(text: str) -> str:
    return text if len(text) <= MAX_REPR_CHARACTERS else f"{text[: MAX_REPR_CHARACTERS - 3]}..."


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
