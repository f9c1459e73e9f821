"""A backend for Django's own Tasks framework (see handbell/tasks.py).

`enqueue()` is a call like any other: a row in the caller's transaction, run by the workers of its queue. Django 6
brings the framework; for Django 5.2 the package django-tasks does.
"""

import inspect
import json
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from string import Formatter
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry
from django.utils import timezone
from django_celery_results.models import TaskResult as TaskRow

from handbell import states
from handbell.arguments import require_text
from handbell.celery.django_tasks import (
    MAX_RETRY_SECONDS,
    RunDetails,
    find_django_task,
    run_django_task,
    run_django_task_in_lane,
)
from handbell.common.codec import encode_arguments, formatted_traceback
from handbell.common.time_limits import is_told_to_stop
from handbell.models import Operation
from handbell.models.task_result import decoded
from handbell.queues import DEFAULT_PRIORITY, MAX_PRIORITY, default_queue, queue_names
from handbell.serial.enqueue import OperationCall, enqueue_operation

if TYPE_CHECKING or find_spec("django.tasks"):
    from django.tasks import DEFAULT_TASK_QUEUE_NAME, TaskContext, TaskResult, TaskResultStatus, task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import Task, TaskError
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
    from django.utils.json import normalize_json
else:
    from django_tasks import DEFAULT_TASK_QUEUE_NAME, TaskContext, TaskResult, TaskResultStatus, task_backends
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.base import Task, TaskError
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued, task_finished, task_started
    from django_tasks.utils import normalize_json

GRACE_SECONDS = 5.0  # from a task's `timeout` until its process is killed
LOWEST, HIGHEST = -100, 100  # of Django's priorities


@dataclass(frozen=True, slots=True, kw_only=True)
class HandbellTask(Task):  # type: ignore[type-arg]
    """A Django task with what `@task(…)` may say more to this backend.

    `lane`: a key, filled in from the arguments, such as "account:{account_id}": tasks with the same key run one at a
    time, in order, with their effects in the database exactly once. `timeout`: seconds until `SoftTimeLimitExceeded` is
    raised in it. `max_attempts`: how often it is tried if it raises, after 1, 2, 4, … seconds.
    """

    lane: str | None = None
    timeout: float | None = None
    max_attempts: int = 1


def task(function: Callable[..., Any] | None = None, *, backend: str = "default", **options: Any) -> Any:
    """Django's `@task`, which takes the options of `HandbellTask` on every version of Django; that of 6.0 does not.

    Raises:
        InvalidTask: the options contradict each other.
    """

    chosen = {"priority": 0, "queue_name": DEFAULT_TASK_QUEUE_NAME, "run_after": None, **options}

    def declare(given: Callable[..., Any]) -> Any:
        return task_backends[backend].task_class(func=given, backend=backend, **chosen)

    return declare if function is None else declare(function)


class HandbellBackend(BaseTaskBackend):
    """Django tasks as calls of Handbell: recorded in the caller's transaction, and never lost."""

    task_class = HandbellTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        if "QUEUES" not in params:
            self.queues = {DEFAULT_TASK_QUEUE_NAME, *queue_names()}

    def validate_task(self, task: Any) -> None:
        """
        Raises:
            InvalidTask: this backend cannot run it; the message says why.
        """
        super().validate_task(task)
        if task.queue_name != DEFAULT_TASK_QUEUE_NAME and task.queue_name not in queue_names():
            raise InvalidTask(
                f"The table of queues has no queue {task.queue_name!r}. It has {', '.join(queue_names())}."
            )
        lane, timeout, attempts = (getattr(task, name, None) for name in ("lane", "timeout", "max_attempts"))
        if lane is not None and (timeout is not None or attempts != 1 or inspect.iscoroutinefunction(task.func)):
            raise InvalidTask("A task with lane= takes neither timeout= nor max_attempts=, and is no async function.")
        if lane is not None and (unknown := _unknown_names(task)):
            raise InvalidTask(f"lane= names {', '.join(sorted(unknown))}, which {task.name} does not take.")
        if timeout is not None and not timeout > 0:
            raise InvalidTask(f"timeout= is a number of seconds, not {timeout!r}.")
        if attempts is not None and not (isinstance(attempts, int) and attempts >= 1):
            raise InvalidTask(f"max_attempts= is a whole number from 1, not {attempts!r}.")

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Write the call in the current transaction, and return its result, which is there from now on.

        Raises:
            InvalidTask: this backend cannot run it.
            TypeError: the arguments are not JSON.
        """
        self.validate_task(task)
        details = RunDetails(
            id=str(uuid.uuid4()),
            path=task.module_path,
            backend=self.alias,
            priority=task.priority,
            queue_name=task.queue_name,
            run_after=task.run_after.isoformat() if task.run_after else None,
            enqueued_at=timezone.now().isoformat(),
        )
        arguments = (details, normalize_json(args), normalize_json(kwargs))
        call: list[Any] = json.loads(encode_arguments(f"The arguments of {task.module_path}", arguments))
        if getattr(task, "lane", None) is not None:
            key = _lane_key(task, args, kwargs)
            operation = OperationCall(run_django_task_in_lane.name, key, tuple(call), {})
            enqueue_operation(operation, details["id"], task.run_after, None)
        else:
            self._call(task, call)
        result = _result(task, call, TaskResultStatus.READY)
        task_enqueued.send(type(self), task_result=result)
        return result

    def _call(self, task: Any, call: list[Any]) -> None:
        text, timeout = json.dumps(call), getattr(task, "timeout", None)
        runner: Any = run_django_task
        runner.apply_async(
            (text,),
            task_id=call[0]["id"],
            queue=default_queue() if task.queue_name == DEFAULT_TASK_QUEUE_NAME else task.queue_name,
            priority=celery_priority(task.priority),
            eta=task.run_after,
            soft_time_limit=timeout,
            time_limit=timeout and timeout + GRACE_SECONDS,
            argsrepr=text,
            shadow=task.module_path,
        )

    def get_result(self, result_id: str) -> Any:
        """
        Raises:
            TaskResultDoesNotExist: no Django task has this id.
        """
        if not _is_id(result_id):
            raise TaskResultDoesNotExist(result_id)
        row = TaskRow.objects.filter(task_id=result_id).first()
        if row is not None and (call := _stored_call(decoded(row.task_args))) is not None:
            return _result_of_row(row, call)
        operation = Operation.objects.filter(task_id=result_id, task=run_django_task_in_lane.name).first()
        if operation is not None:
            return _result_of_operation(operation, json.loads(operation.arguments)[0])
        raise TaskResultDoesNotExist(result_id)

    @contextmanager
    def running(
        self, celery_task: Any, task: Any, details: RunDetails, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Iterator["DjangoTaskRun"]:
        """While a worker runs the task: send the signals, and have it tried again if it raises and may be."""
        request = celery_task and celery_task.request
        workers = [str(request.hostname)] * (request.retries + 1) if request else ["lane"]
        now = timezone.now()
        result = _result(task, [details, args, kwargs], TaskResultStatus.RUNNING, started_at=now, workers=workers)
        run = DjangoTaskRun(type(self), task, result)
        task_started.send(type(self), task_result=result)
        try:
            yield run
        except (Ignore, Reject, Retry):
            raise
        except (Exception, SystemExit) as error:
            if is_told_to_stop(error):
                raise
            most = getattr(task, "max_attempts", 1)
            if celery_task is not None and len(workers) < most:
                raise celery_task.retry(
                    exc=error, countdown=min(2**request.retries, MAX_RETRY_SECONDS), max_retries=most - 1
                ) from error
            run.fails(error)
            if isinstance(error, SystemExit) and request:  # which Celery takes for the end of the process
                backend = celery_task.backend
                backend.mark_as_failure(request.id, error, formatted_traceback(error), request=request)
                raise Ignore from error
            raise


class DjangoTaskRun:
    """One run of a Django task. `args` and `kwargs` are what its function takes."""

    def __init__(self, sender: type, task: Any, result: Any) -> None:
        self._sender, self._result = sender, result
        context: list[Any] = [TaskContext(task_result=result)] if task.takes_context else []
        self.args, self.kwargs = [*context, *result.args], result.kwargs

    def succeeds(self, value: Any) -> Any:
        """
        Raises:
            TypeError: the value is not JSON.
        """
        returned = normalize_json(value)
        self._end(TaskResultStatus.SUCCESSFUL, returned)
        return returned

    def fails(self, error: BaseException) -> None:
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        self._result.errors.append(TaskError(exception_class_path=path, traceback=formatted_traceback(error)))
        self._end(TaskResultStatus.FAILED, None)

    def _end(self, status: Any, value: Any) -> None:
        for name, now in {"status": status, "_return_value": value, "finished_at": timezone.now()}.items():
            object.__setattr__(self._result, name, now)
        task_finished.send(self._sender, task_result=self._result)


def celery_priority(priority: int) -> int:
    """Celery's priority, from 0 to 9, for one of Django's, from -100 to 100: 0 is the usual one in both."""
    if priority >= 0:
        return DEFAULT_PRIORITY + math.ceil((MAX_PRIORITY - DEFAULT_PRIORITY) * priority / HIGHEST)
    return DEFAULT_PRIORITY - math.ceil(DEFAULT_PRIORITY * priority / LOWEST)


def _unknown_names(task: Any) -> set[str]:
    """What the template of a lane's key names and the function does not take."""
    fields = {re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(task.lane) if name is not None}
    return fields - set(inspect.signature(task.func).parameters)


def _lane_key(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    bound = inspect.signature(task.func).bind(*([None] if task.takes_context else []), *args, **kwargs)
    bound.apply_defaults()
    return require_text("The key", task.lane.format_map(bound.arguments))


def _is_id(text: Any) -> bool:
    try:
        return bool(str(uuid.UUID(text)) == text)
    except (ValueError, TypeError, AttributeError):
        return False


def _stored_call(text: Any) -> list[Any] | None:
    found: Any = decoded(text) if isinstance(text, str) else None
    is_call = isinstance(found, list) and len(found) == 3 and isinstance(found[0], dict)
    return found if is_call and found[0].keys() == RunDetails.__annotations__.keys() else None


def _result_of_row(row: Any, call: list[Any]) -> Any:
    status, worked = _STATUSES.get(states.word(row.status), TaskResultStatus.FAILED), row.date_started is not None
    retries = (decoded(row.meta) or {}).get("retries", 0)
    result = _result(
        find_django_task(call[0]),
        call,
        status,
        started_at=row.date_started,
        finished_at=row.date_done if status in _FINISHED else None,
        workers=[row.worker] * (retries + 1) if worked and row.worker else [],
    )
    _add_outcome(result, decoded(row.result), row.traceback)
    return result


def _result_of_operation(operation: Operation, call: list[Any]) -> Any:
    result = _result(
        find_django_task(call[0]),
        call,
        _STATUSES.get(operation.status, TaskResultStatus.FAILED),
        started_at=operation.started_at,
        finished_at=operation.finished_at,
        workers=["lane"] * operation.attempts,
    )
    _add_outcome(result, decoded(operation.result), operation.traceback)
    return result


def _add_outcome(result: Any, stored: Any, traceback: str | None) -> None:
    if result.status == TaskResultStatus.SUCCESSFUL:
        object.__setattr__(result, "_return_value", stored)
    elif result.status == TaskResultStatus.FAILED and isinstance(stored, dict):
        path = f"{stored.get('exc_module')}.{stored.get('exc_type')}"
        result.errors.append(TaskError(exception_class_path=path, traceback=traceback or ""))


def _result(
    task: Any,
    call: list[Any],
    status: Any,
    *,
    started_at: Any = None,
    finished_at: Any = None,
    workers: Sequence[str] = (),
) -> Any:
    details, args, kwargs = call
    return TaskResult(
        task=task,
        id=details["id"],
        status=status,
        enqueued_at=datetime.fromisoformat(details["enqueued_at"]),
        started_at=started_at,
        finished_at=finished_at,
        last_attempted_at=started_at,
        args=args,
        kwargs=kwargs,
        backend=details["backend"],
        errors=[],
        worker_ids=list(workers),
    )


_STATUSES = {
    states.WAITING: TaskResultStatus.READY,
    states.QUEUED: TaskResultStatus.READY,
    states.RUNNING: TaskResultStatus.RUNNING,
    states.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
}  # whatever else it ended as, it failed
_FINISHED = (TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED)
