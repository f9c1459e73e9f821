"""Calling and declaring serial tasks: what is taken, what is refused at the call, and under which key it waits."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from celery import current_app
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from handbell import SerialTask, delete_finished, serial_task
from handbell.errors import NotJson
from handbell.models import Lane, Operation
from handbell.serial import sweep
from handbell.testing import run_operations
from tasks_app.models import Counter
from tasks_app.tasks import increment_value
from tests.lanes_app.tables import Document, Shelf, Tag, make, operation

pytestmark = pytest.mark.django_db


@serial_task(on=Document)
def append(document: Document, word: str, *, times: int = 1) -> int:
    document.words += [word] * times
    return len(document.words)


@serial_task(on=Tag, create=True)
def use(tag: Tag) -> int:
    tag.uses += 1
    return tag.uses


@serial_task(key="report:{account_id}:{kind}")
def report(account_id: int, kind: str = "daily") -> str:
    return f"{account_id} {kind}"


@serial_task(key="item:{item[id]}")
def handle(item: dict[str, Any]) -> None: ...


@serial_task
def anything() -> None: ...


@serial_task(bind=True)
def bound(self: SerialTask[..., str], number: int) -> str:
    return f"{self.name.rpartition('.')[2]} {number}"


# --- What is refused ------------------------------------------------------------------------------------------------

NOT_JSON = [object(), {1}, b"bytes", datetime(2026, 1, 1, tzinfo=UTC), Decimal(1), uuid.UUID(int=0), float("nan")]


@pytest.mark.parametrize("value", NOT_JSON, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"within": [value]}], ids=["bare", "within"])
def test_arguments_that_are_not_json_are_refused_at_the_call(value: Any, wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(NotJson, match="Pass keys, numbers, texts, lists and dicts") as refused:
        report.delay(wrap(value))

    assert isinstance(refused.value, TypeError)
    assert not Operation.objects.exists()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1,), {}), ((1, "a", "b"), {}), ((1, "a"), {"unknown": 1}), ((1,), {"document": 1, "word": "a"})],
)
def test_arguments_that_do_not_fit_are_refused_at_the_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        append.delay(*args, **kwargs)
    with pytest.raises(TypeError):
        append.apply_async(args, kwargs)

    assert not Operation.objects.exists()


@pytest.mark.parametrize("given", [None, "many", [], 2**63, -(2**63) - 1, Document()])
def test_what_is_no_primary_key_is_refused_at_the_call(given: Any) -> None:
    with pytest.raises(TypeError, match="primary key of (a )?Document"):
        append.delay(given, "word")


def test_a_row_of_another_model_is_no_primary_key() -> None:
    with pytest.raises(TypeError, match="takes the primary key of a Document first, not <Shelf"):
        append.delay(make(Shelf, name="x"), "word")


@pytest.mark.parametrize(
    "call",
    [
        lambda: use.delay("longer than ten"),
        lambda: report.delay("x" * 300),  # type: ignore[arg-type]
        lambda: anything.apply_async(idempotency_key="x" * 300),
        lambda: anything.apply_async(task_id="x" * 300),
    ],
    ids=["primary key", "key", "idempotency_key", "task_id"],
)
def test_what_has_no_room_is_refused_and_the_callers_transaction_goes_on(call: Callable[[], Any]) -> None:
    with transaction.atomic():
        with pytest.raises((TypeError, ValueError), match="limit is 255|is not a primary key"):
            call()
        assert not Operation.objects.exists()


@pytest.mark.parametrize("option", ["link", "link_error", "expires", "chain", "chord", "group_id", "time_limit"])
def test_an_option_that_would_not_do_what_it_says_is_refused(option: str) -> None:
    with pytest.raises(TypeError, match=rf"anything is a serial task and does not take {option}\. It takes task_id"):
        anything.apply_async(**{option: [1]})  # type: ignore[arg-type]

    assert not Operation.objects.exists()


def test_options_about_the_message_are_taken_and_mean_nothing() -> None:
    anything.apply_async(priority=9, queue="serial", headers={"a": 1}, link=None, expires=None)

    assert run_operations() == 1


def nothing() -> None: ...
async def waits() -> None: ...


def takes_a(a: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (takes_a, {"on": Counter, "key": "k"}, "on= gives the key and the row; leave out key= and external="),
        (takes_a, {"on": Counter, "external": True}, "on= gives the key and the row; leave out key= and external="),
        (takes_a, {"on": Shelf}, "on= takes a subclass of SerialModel, not"),
        (takes_a, {"on": "Counter"}, "on= takes a subclass of SerialModel, not 'Counter'"),
        (nothing, {"on": Counter}, "with on= the function takes the row first"),
        (takes_a, {"create": True}, "create= needs on="),
        (waits, {}, "which an `async def` function cannot share"),
        (takes_a, {"on_failure": "explode"}, "on_failure= is 'continue' or 'block', not 'explode'"),
        (takes_a, {"key": "k:{b}"}, "key='k:{b}' names b, which it does not take"),
        (takes_a, {"key": "k:{b.c}:{d[0]}"}, "names b, d, which it does not take"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused_by_name(
    function: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TypeError) as refused:
        serial_task(**options)(function)  # type: ignore[no-untyped-call]

    assert f"@serial_task {function.__name__}: " in str(refused.value)
    assert sentence in str(refused.value)


# --- What is taken --------------------------------------------------------------------------------------------------


def test_the_row_may_be_given_by_key_as_a_row_or_by_name() -> None:
    document = make(Document)
    results = [append.delay(document.pk, "a"), append.delay(document, "b"), append.delay(str(document.pk), "c")]
    results += [
        append.apply_async(kwargs={"document": document.pk, "word": "d"}),
        append.delay(document.pk, word="e", times=2),
    ]

    run_operations()

    assert [result.get() for result in results] == [1, 2, 3, 4, 6]
    assert set(Operation.objects.values_list("key", flat=True)) == {f"lanes_app.document:{document.pk}"}


def test_a_key_is_filled_in_from_arguments_and_defaults() -> None:
    report.delay(1)
    report.delay(1, "weekly")
    report.delay(kind="weekly", account_id=2)
    handle.delay({"id": 7})
    anything.delay()

    keys = list(Operation.objects.order_by("id").values_list("key", flat=True))
    assert keys == ["report:1:daily", "report:1:weekly", "report:2:weekly", "item:7", ""]


def test_a_bound_task_and_one_without_options_work_like_any() -> None:
    results = [bound.delay(3), report.delay(4)]

    run_operations()

    assert [result.get() for result in results] == ["bound 3", "4 daily"]


def test_called_directly_it_is_the_function_itself() -> None:
    document = Document(words=["a"])

    assert append(document, "b") == 2
    assert not Operation.objects.exists()


def test_called_directly_with_a_key_it_says_how_to_enqueue() -> None:
    with pytest.raises(TypeError, match=r"append called directly takes a Document, not 7\. .*write \.delay"):
        append(7, "word")


def test_a_signature_calls_it_too() -> None:
    result = report.s(5).set(countdown=0).delay()

    run_operations()

    assert result.get() == "5 daily"


def test_delay_in_async_code() -> None:
    async def call() -> Any:
        return await asyncio.wait_for(report.adelay(6), 20)

    result = async_to_sync(call)()

    run_operations()

    assert result.get() == "6 daily"


def test_a_message_from_another_program_becomes_an_operation_once() -> None:
    """As a worker runs it: with a request of its own. The message may come twice."""
    message = str(uuid.uuid4())
    for _ in range(2):
        tracer = current_app.tasks[report.name]
        tracer.push_request(id=message, called_directly=False, args=(7,), kwargs={})
        try:
            assert tracer(7) is None
        finally:
            tracer.pop_request()

    assert run_operations() == 1
    assert report.AsyncResult(message).get() == "7 daily"


# --- The same call twice, and calls for later -----------------------------------------------------------------------


def test_an_idempotency_key_makes_two_calls_one() -> None:
    first = increment_value.apply_async(("i",), idempotency_key="order 1")
    second = increment_value.apply_async(("i", 5), idempotency_key="order 1")
    run_operations()
    third = increment_value.apply_async(("i", 7), idempotency_key="order 1")

    assert (second.id, third.id) == (first.id, first.id)
    assert run_operations() == 0
    assert Counter.objects.get().value == 1


def test_idempotency_keys_of_different_tasks_are_different_keys() -> None:
    first = increment_value.apply_async(("i",), idempotency_key="x")
    second = report.apply_async((1,), idempotency_key="x")

    assert first.id != second.id
    assert run_operations() == 2


def test_the_same_task_id_makes_two_calls_one() -> None:
    first = increment_value.apply_async(("t",), task_id="mine")
    second = increment_value.apply_async(("t", 5), task_id="mine")

    assert first.id == second.id == "mine"
    assert run_operations() == 1
    assert Counter.objects.get().value == 1


def test_an_idempotency_key_holds_until_its_operation_is_deleted() -> None:
    first = increment_value.apply_async(("i",), idempotency_key="order 1")
    delete_finished(timezone.now())  # it takes nothing that waits
    assert increment_value.apply_async(("i",), idempotency_key="order 1").id == first.id
    run_operations()

    delete_finished(timezone.now())
    second = increment_value.apply_async(("i",), idempotency_key="order 1")

    assert second.id != first.id
    assert run_operations() == 1
    assert Counter.objects.get().value == 2


NOW = timezone.now()


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 60},
        {"eta": NOW + timedelta(hours=1)},
        {"eta": (NOW + timedelta(hours=1)).replace(tzinfo=None)},
    ],
    ids=["countdown", "eta", "naive eta"],
)
def test_an_operation_for_later_lets_others_pass_until_then(options: dict[str, Any]) -> None:
    later = increment_value.apply_async(("later", 10), **options)
    now = increment_value.delay("later", 1)

    assert run_operations() == 1
    assert (later.state, now.get()) == ("PENDING", 1)
    sweep.sweep_lanes()  # too early
    assert run_operations() == 0

    Operation.objects.filter(task_id=later.id).update(not_before=timezone.now())
    Lane.objects.update(paused=True)  # otherwise the sweeper rings, for a worker that is not there
    sweep.sweep_lanes()
    Lane.objects.update(paused=False)
    assert operation(later).not_before is None
    assert run_operations() == 1
    assert later.get() == 11


def test_what_becomes_due_at_once_is_let_in_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "MAX_ADMITTED_OPERATIONS", 2)
    for _ in range(5):
        increment_value.apply_async(("later",), countdown=60)
    Operation.objects.update(not_before=timezone.now())

    with CaptureQueriesContext(connection) as queries:
        sweep.sweep_lanes()

    assert not Operation.objects.exclude(not_before=None).exists()
    assert sum('SET "not_before" = NULL' in it["sql"] for it in queries.captured_queries) == 3


def test_what_is_due_goes_before_what_was_called_after_it() -> None:
    later = increment_value.apply_async(("later", 10), countdown=60)
    now = increment_value.delay("later", 1)

    assert run_operations(scheduled=True) == 2
    assert (later.get(), now.get()) == (10, 11)


# --- Time limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "for_all_tasks", "expected"),
    [
        ({}, {}, (7, 12)),  # the setting, and five seconds more
        ({"soft_time_limit": 60}, {}, (60, 65)),
        ({"time_limit": 60}, {}, (None, 60)),
        ({"soft_time_limit": 60, "time_limit": 61}, {"task_time_limit": 90}, (60, 61)),
        ({}, {"task_time_limit": 90}, (None, 90)),
        ({"soft_time_limit": 60}, {"task_time_limit": 90}, (60, 90)),
    ],
)
def test_time_limits_come_from_the_task_or_celery_or_the_setting(
    declared: dict[str, Any],
    for_all_tasks: dict[str, Any],
    expected: tuple[float | None, float],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.HANDBELL_SERIAL_TIME_LIMIT_SECONDS = 7
    for name, value in for_all_tasks.items():
        changes: Any = current_app.conf.changes
        monkeypatch.setitem(changes, name, value)
    for name, value in declared.items():
        monkeypatch.setattr(report, name, value)

    assert report.time_limits() == expected
