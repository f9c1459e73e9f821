"""Django's own Tasks framework with Handbell's backend: a result exists from `enqueue()` on, or the call never was."""

import json
import uuid
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from celery import current_app
from django.db import transaction
from django.utils import timezone
from django_celery_results.models import TaskResult as TaskRow

import handbell.tasks
from handbell import testing
from handbell.celery.django_backend import celery_priority
from handbell.models import Call, Operation
from handbell.tasks import HandbellBackend
from tasks_app.models import Counter, Score
from tests import django_tasks as tasks

if TYPE_CHECKING or find_spec("django.tasks"):
    from django.tasks import TaskResultStatus, default_task_backend
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
else:
    from django_tasks import TaskResultStatus, default_task_backend
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued, task_finished, task_started

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_broker() -> Any:
    with testing.without_broker():
        yield


def run(task: Any, *args: Any) -> Any:
    result = task.enqueue(*args)
    testing.run_all(scheduled=True)
    result.refresh()
    return result


def test_it_declares_what_it_can() -> None:
    assert HandbellBackend.supports_defer
    assert HandbellBackend.supports_async_task
    assert HandbellBackend.supports_get_result
    assert HandbellBackend.supports_priority


def test_a_result_exists_from_the_call_on_and_has_everything_at_the_end() -> None:
    result = tasks.add.enqueue(3, b=4)

    for found in (result, default_task_backend.get_result(result.id)):
        assert (found.status, found.args, found.kwargs) == (TaskResultStatus.READY, [3], {"b": 4})
        assert (found.task, found.attempts, found.is_finished) == (tasks.add, 0, False)
        assert found.enqueued_at is not None
    assert TaskRow.objects.get().task_name == "tests.django_tasks.add"

    testing.run_all()
    result.refresh()

    assert (result.status, result.return_value, result.attempts) == (TaskResultStatus.SUCCESSFUL, 7, 1)
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert tasks.add.get_result(result.id).args == [3]
    assert not Call.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_was_never_enqueued() -> None:
    with pytest.raises(ValueError), transaction.atomic():
        result = tasks.add.enqueue(1)
        raise ValueError

    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(result.id)


def test_async_callers_and_async_functions() -> None:
    async def call() -> Any:
        result = await tasks.add_later.aenqueue(1, 2)
        assert (await tasks.add_later.aget_result(result.id)).status == TaskResultStatus.READY
        return result

    result = async_to_sync(call)()
    testing.run_all()
    result.refresh()

    assert result.return_value == 3
    assert Score.objects.get().value == 2


def test_the_context_and_what_using_changes() -> None:
    later = timezone.now() + timedelta(hours=1)
    task = tasks.attempt.using(priority=-100, queue_name="io", run_after=later)
    result = task.enqueue("hello")

    message = Call.objects.get().message
    assert '"cpu"' not in message
    assert Call.objects.get().queue == "io"
    stored = default_task_backend.get_result(result.id)
    assert (stored.task.priority, stored.task.queue_name, stored.task.run_after) == (-100, "io", later)

    testing.run_all(scheduled=True)
    result.refresh()
    assert result.return_value == [1, result.id, "hello"]


@pytest.mark.parametrize(("django", "celery"), [(-100, 0), (-50, 2), (-1, 4), (0, 5), (1, 6), (50, 7), (100, 9)])
def test_priorities(django: int, celery: int) -> None:
    assert celery_priority(django) == celery


def test_a_failure_has_its_error() -> None:
    result = run(tasks.fail, "no")

    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 1)
    (error,) = result.errors
    assert error.exception_class is ValueError
    assert "ValueError: no" in error.traceback
    with pytest.raises(ValueError, match="Task failed"):
        result.return_value  # noqa: B018


def test_a_result_that_is_not_json_is_a_failure() -> None:
    assert run(tasks.not_json).status == TaskResultStatus.FAILED


def test_max_attempts() -> None:
    succeeded, failed = run(tasks.third_time), run(tasks.never)

    assert (succeeded.return_value, succeeded.attempts) == (3, 3)
    assert (failed.status, failed.attempts) == (TaskResultStatus.FAILED, 2)
    assert failed.errors[0].exception_class is LookupError


def test_a_lane_runs_them_one_at_a_time_and_exactly_once() -> None:
    results = [tasks.increment_in_lane.enqueue("a", by=number) for number in (1, 2, 3)]
    assert [result.status for result in results] == [TaskResultStatus.READY] * 3
    assert set(Operation.objects.values_list("key", flat=True)) == {"tasks_app.counter:a"}

    testing.run_all()

    for result in results:
        result.refresh()
    assert [result.return_value for result in results] == [1, 3, 6]
    assert [result.attempts for result in results] == [1, 1, 1]
    assert Counter.objects.get(pk="a").value == 6


def test_a_timeout_is_a_time_limit_of_the_call() -> None:
    tasks.endless.enqueue()

    assert '"timelimit":[6.0,1]' in Call.objects.get().message.replace(" ", "")


def test_signals() -> None:
    seen: list[Any] = []

    def note(signal: str) -> Any:
        def receive(sender: Any, task_result: Any, **kwargs: Any) -> None:
            seen.append((signal, sender, task_result.id, str(task_result.status)))

        return receive

    receivers = {
        name: (signal, note(name))
        for name, signal in {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}.items()
    }
    for signal, receiver in receivers.values():
        signal.connect(receiver)
    try:
        result = run(tasks.add, 1)
    finally:
        for signal, receiver in receivers.values():
            signal.disconnect(receiver)

    assert seen == [
        ("enqueued", HandbellBackend, result.id, "READY"),
        ("started", HandbellBackend, result.id, "RUNNING"),
        ("finished", HandbellBackend, result.id, "SUCCESSFUL"),
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"queue_name": "nowhere"}, "not valid for backend"),
        ({"priority": 101}, "priority must be a whole number"),
        ({"run_after": datetime(2030, 1, 1)}, "must be an aware datetime"),  # noqa: DTZ001
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidTask, match=sentence):
        tasks.add.using(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lane": "x", "timeout": 1}, "takes neither timeout= nor max_attempts="),
        ({"timeout": 0}, "timeout= is a number of seconds, not 0"),
        ({"max_attempts": 0}, "max_attempts= is a whole number from 1, not 0"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidTask, match=sentence):
        tasks.declare(**options)(tasks.add.func)


def test_arguments_that_are_not_json_are_refused_at_the_call() -> None:
    with pytest.raises(TypeError):
        tasks.add.enqueue(object())
    assert not TaskRow.objects.exists()


def test_only_tasks_of_this_backend_are_run_or_found() -> None:
    details = {"id": "x", "path": "os.getcwd", "backend": "default", "priority": 0, "queue_name": "default"}
    runner = current_app.tasks["handbell.run_django_task"]
    result = runner.delay(
        json.dumps([{**details, "run_after": None, "enqueued_at": "2026-01-01T00:00:00+00:00"}, [], {}])
    )
    testing.run_all()

    assert "This deployment has no @task called os.getcwd" in str(result.result)
    for unknown in (str(uuid.uuid4()), result.id):
        with pytest.raises(TaskResultDoesNotExist):
            default_task_backend.get_result(unknown)


@pytest.mark.parametrize("kind", ["note", "decimal"])
def test_arguments_that_look_like_something_of_celerys_are_what_they_are(kind: str) -> None:
    value = {"__type__": kind, "__value__": "1"}

    assert run(tasks.echo, value).return_value == value


def test_leaving_the_program_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[Any] = []

    def note(sender: type, task_result: Any, **kwargs: Any) -> None:
        ended.append(task_result.status)

    task_finished.connect(note)
    try:
        left, moment = run(tasks.leave), run(tasks.moment)
    finally:
        task_finished.disconnect(note)

    assert (left.status, left.attempts) == (TaskResultStatus.FAILED, 2)
    assert left.errors[0].exception_class is SystemExit
    assert "as some scripts do" in left.errors[0].traceback
    assert (moment.status, moment.errors[0].exception_class) == (TaskResultStatus.FAILED, TypeError)
    assert ended == [TaskResultStatus.FAILED] * 2


@pytest.mark.parametrize("strange", ["", "123", "\0", "\ud800", str(uuid.uuid4()).upper()])
def test_what_is_no_id_of_a_result(strange: str) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(strange)


def test_a_lane_that_names_no_argument() -> None:
    with pytest.raises(InvalidTask, match="lane= names b, which echo does not take"):
        handbell.tasks.task(lane="x:{b}")(tasks.echo.func)
