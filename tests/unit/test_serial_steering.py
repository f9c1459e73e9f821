"""Steering lanes: pause and resume, skip, retry and cancel, another number of lanes; in code and as a command."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from handbell import serial_task
from handbell.errors import LaneRefused
from handbell.models import Doorbell, Lane, LaneCount, Operation
from handbell.serial import lanes
from handbell.serial.doorbell import doorbell_name
from handbell.serial.enqueue import lane_count
from handbell.testing import run_operations
from tasks_app.models import Counter
from tasks_app.tasks import increment_value
from tests.lanes_app.tables import Document, lane, make, operation, state

pytestmark = pytest.mark.django_db
COUNTER = "steered"
fixed = False


@serial_task(on=Document)
def append(document: Document, word: str) -> list[str]:
    document.words.append(word)
    return list(document.words)


@serial_task(on=Document, on_failure="block")
def append_if_fixed(document: Document, word: str) -> list[str]:
    document.words.append(word)
    if not fixed:
        raise ValueError("not fixed")
    return list(document.words)


@pytest.fixture(autouse=True)
def _not_fixed() -> Iterator[None]:
    yield
    fix(now=False)
    lane_count.value = 0  # what other tests remember is of another database


def fix(*, now: bool = True) -> None:
    global fixed  # noqa: PLW0603
    fixed = now


@pytest.fixture
def document() -> Document:
    made: Document = make(Document)
    return made


@pytest.fixture
def mine(document: Document) -> int:
    return lane(Document.key_of(document.pk))


def found(number: int) -> lanes.LaneOverview:
    return lanes.overview()[number]


# --- Looking --------------------------------------------------------------------------------------------------------


def test_an_overview_says_how_deep_each_lane_is_and_for_how_long(document: Document, mine: int) -> None:
    assert [look.state for look in lanes.overview()] == ["open"] * LaneCount.objects.get().count
    for word in "abc":
        append.delay(document.pk, word)
    append.apply_async((document.pk, "later"), countdown=60)
    Operation.objects.update(enqueued_at=timezone.now() - timedelta(minutes=1))

    assert found(mine).depth == 3
    assert timedelta(seconds=60) <= (found(mine).oldest or timedelta()) < timedelta(seconds=70)
    run_operations()
    assert (found(mine).depth, found(mine).oldest) == (0, None)


# --- Pausing --------------------------------------------------------------------------------------------------------


def test_a_paused_lane_waits_and_the_others_do_not(document: Document, mine: int) -> None:
    other = next(made for made in (make(Document) for _ in range(1000)) if lane(Document.key_of(made.pk)) != mine)
    results = [append.delay(document.pk, "a"), append.delay(other.pk, "b")]

    lanes.pause(mine)
    assert run_operations() == 1
    assert [result.state for result in results] == ["PENDING", "SUCCESS"]
    assert found(mine).state == "paused"

    lanes.resume(mine)
    assert run_operations() == 1
    assert results[0].get() == ["a"]


# --- Blocked lanes --------------------------------------------------------------------------------------------------


@pytest.fixture
def blocked(document: Document, mine: int) -> Operation:
    """What blocks the lane; an operation before it, one like it, and one of another kind behind it."""
    append.delay(document.pk, "before")
    failed = append_if_fixed.delay(document.pk, "blocks")
    append_if_fixed.delay(document.pk, "behind")
    append.delay(document.pk, "last")
    assert run_operations() == 2
    assert found(mine).state == f"blocked by operation {operation(failed).pk}"
    return operation(failed)


def words(document: Document) -> list[str]:
    document.refresh_from_db()
    return document.words


def test_a_lane_that_is_blocked_stays_so(document: Document, blocked: Operation) -> None:
    assert run_operations() == 0
    assert words(document) == ["before"]


def test_skip_goes_on_without_the_operation(document: Document, mine: int, blocked: Operation) -> None:
    fix()
    lanes.skip(mine)
    run_operations()

    assert words(document) == ["before", "behind", "last"]
    blocked.refresh_from_db()
    assert blocked.status == "failed"


@pytest.mark.parametrize(
    "retry", [lambda failed: lanes.retry(failed.lane), lambda failed: lanes.retry_operation(failed.pk)]
)
def test_retry_runs_it_before_all_others(
    retry: Callable[[Operation], None], document: Document, blocked: Operation
) -> None:
    fix()
    retry(blocked)
    run_operations()

    assert words(document) == ["before", "blocks", "behind", "last"]


def test_a_retry_that_fails_blocks_again_and_so_does_the_next(
    document: Document, mine: int, blocked: Operation
) -> None:
    lanes.retry(mine)
    run_operations()
    assert found(mine).state == f"blocked by operation {blocked.pk}"

    lanes.skip(mine)
    run_operations()
    assert Lane.objects.get(pk=mine).blocked_by not in {None, blocked.pk}
    assert words(document) == ["before"]


# --- Single operations ----------------------------------------------------------------------------------------------


def test_a_failed_operation_is_retried_by_itself(document: Document) -> None:
    failed = append.delay(document.pk, {"not": "a word"})  # type: ignore[arg-type]
    Operation.objects.update(status="failed", result="{}", traceback="…", attempts=1, finished_at=timezone.now())

    lanes.retry_operation(operation(failed).pk)

    again = operation(failed)
    assert (again.status, again.result, again.traceback, again.finished_at) == ("queued", None, None, None)
    assert run_operations() == 1


def test_a_cancelled_operation_is_not_applied_and_the_others_are(document: Document) -> None:
    results = [append.delay(document.pk, word) for word in "abc"]
    lanes.cancel_operation(operation(results[1]).pk)

    assert run_operations() == 2
    assert words(document) == ["a", "c"]
    assert state(results[1]) == "REVOKED"
    assert operation(results[1]).finished_at is not None


def test_what_is_refused_is_said_in_a_sentence(document: Document, mine: int) -> None:
    done = append.delay(document.pk, "a")
    run_operations()
    refusals: list[tuple[Callable[[int], object], int, str]] = [
        (lanes.pause, 4711, "There is no lane 4711. `manage.py handbell lanes` lists them."),
        (lanes.resume, 4711, "There is no lane 4711. `manage.py handbell lanes` lists them."),
        (lanes.skip, mine, f"Lane {mine} is not blocked."),
        (lanes.retry, mine, f"Lane {mine} is not blocked."),
        (
            lanes.retry_operation,
            operation(done).pk,
            f"Operation {operation(done).pk} is not retried: it has not failed.",
        ),
        (lanes.retry_operation, 0, "Operation 0 is not retried: it has not failed."),
        (
            lanes.cancel_operation,
            operation(done).pk,
            f"Operation {operation(done).pk} is not cancelled: it does not wait any more.",
        ),
        (lanes.resize, 0, "There can be 1 to 1024 lanes, not 0."),
        (lanes.resize, 1025, "There can be 1 to 1024 lanes, not 1025."),
    ]
    for steer, given, sentence in refusals:
        with pytest.raises(LaneRefused) as refused:
            steer(given)
        assert str(refused.value) == sentence


# --- Another number of lanes ----------------------------------------------------------------------------------------

KEYS = [f"key {number}" for number in range(20)]


@pytest.mark.parametrize("count", [1, 5, 40])
def test_another_number_of_lanes_reorders_nothing(count: int) -> None:
    calls = [(KEYS[number % len(KEYS)], number) for number in range(500)]
    results = list(increment_value.delay_many(calls[:400]))
    later = increment_value.apply_async((KEYS[0], 1000), countdown=60)

    lanes.resize(count)
    results += [increment_value.delay(*call) for call in calls[400:]]  # by a process that does not know yet

    assert list(Lane.objects.values_list("pk", flat=True)) == list(range(count))
    assert set(Doorbell.objects.values_list("pk", flat=True)) == {doorbell_name(number) for number in range(count)}
    assert all(waiting.lane == lane(waiting.key) for waiting in Operation.objects.all())
    assert run_operations() == 500
    totals = dict.fromkeys(KEYS, 0)
    for (key, by), result in zip(calls, results, strict=True):
        totals[key] += by
        assert result.get() == totals[key]
    assert run_operations(scheduled=True) == 1
    assert later.get() == totals[KEYS[0]] + 1000


def test_a_failed_operation_is_retried_in_the_lane_that_its_key_has_now() -> None:
    with_the_key = [key for key in KEYS if lane(Counter.key_of(key)) >= 3]
    failed = [increment_value.delay(key, "x") for key in with_the_key]  # type: ignore[arg-type]
    run_operations()
    Operation.objects.update(arguments='[["anything", 1], {}]')

    lanes.resize(3)
    for result in failed:
        lanes.retry_operation(operation(result).pk)

    assert all(operation(result).lane == lane(operation(result).key) for result in failed)


def test_lanes_are_not_changed_under_what_is_running_or_blocked(document: Document, blocked: Operation) -> None:
    with pytest.raises(LaneRefused, match="A lane is blocked. Skip or retry"):
        lanes.resize(3)

    lanes.skip(blocked.lane)
    Operation.objects.filter(status="queued").update(status="running")
    with pytest.raises(LaneRefused, match="running. Change the number of lanes when it has finished"):
        lanes.resize(3)
    assert LaneCount.objects.get().count == Lane.objects.count() != 3


@pytest.mark.django_db(transaction=True)
def test_another_number_of_lanes_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite: a transaction waits for the write lock for as long as the database's timeout says")
    monkeypatch.setattr(lanes, "MAX_LOCK_SECONDS", 0.1)
    before = LaneCount.objects.get().count
    other = connection.copy()  # type: ignore[no-untyped-call]
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN; SELECT * FROM handbell_lane FOR UPDATE")
        with pytest.raises(LaneRefused, match=r"A transaction has used lanes for more than 0.1 s"):
            lanes.resize(before + 1)
    finally:
        other.close()
    assert lanes.resize(before + 1) == 0
    lanes.resize(before)


# --- The command ----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> str:
    output = StringIO()
    call_command("handbell", "lanes", *arguments, stdout=output)
    return output.getvalue()


def test_the_command_lists_every_lane(document: Document, mine: int) -> None:
    append.delay(document.pk, "a")
    lanes.pause(mine)
    lines = command().splitlines()

    assert lines[0].split() == ["lane", "state", "depth", "oldest", "last", "drained"]
    assert len(lines) == 1 + Lane.objects.count()
    assert lines[1 + mine].split()[:3] == [str(mine), "paused", "1"]
    assert lines[1 + mine].split()[-1] == "never"
    assert command("list").splitlines()[0] == lines[0]


def test_the_command_pauses_drains_and_resumes(document: Document, mine: int) -> None:
    append.delay(document.pk, "a")

    assert command("pause", str(mine)) == f"Lane {mine} is paused.\n"
    assert command("drain", "--now") == ""
    assert command("resume", "--all").count("is resumed.") == Lane.objects.count()
    assert command("drain", "--now") == f"Lane {mine}: 1 operations applied.\n"
    assert command("drain", str(mine), "--now") == f"Lane {mine}: 0 operations applied.\n"
    assert words(document) == ["a"]


def test_the_command_skips_and_retries_what_blocks(document: Document, mine: int, blocked: Operation) -> None:
    assert command("retry", str(mine)) == f"Lane {mine} runs what blocked it again.\n"
    command("drain", "--now")
    assert command("skip", "--all") == f"Lane {mine} continues after what blocked it.\n"
    assert command("skip", "--all") == ""


def test_the_command_changes_the_number_of_lanes(document: Document) -> None:
    append.delay(document.pk, "a")

    assert command("resize", "3").startswith("There are 3 lanes now. ")
    assert Lane.objects.count() == 3


@pytest.mark.parametrize(
    "arguments",
    [("pause", "4711"), ("drain", "4711", "--now"), ("skip", "0"), ("retry", "4711"), ("resize", "0")],
)
def test_the_command_refuses_in_a_sentence(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match=r"^(There is no lane|Lane \d+ is not|There can be)"):
        command(*arguments)


@pytest.mark.parametrize("arguments", [("pause",), ("drain",), ("nonsense",)])
def test_the_command_asks_for_what_is_missing(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        command(*arguments)
