"""Plain tasks from the outside: their state is known from the call on, whatever becomes of the transaction, the message
or the broker.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group
from celery.result import AsyncResult
from django.db import connection, transaction
from django_celery_results.models import ChordCounter, TaskResult  # type: ignore[attr-defined]
from kombu.exceptions import EncodeError

from handbell.models import Call
from tests.conftest import COLUMNS
from tests.plain import (
    SECONDS,
    WORKER,
    add,
    backend_process,
    bare,
    break_the_connection,
    calls_left,
    doubles,
    fail,
    frozen_objects,
    halfway,
    lines,
    on_error,
    replaces_itself,
    softly,
    softly_awaiting,
    take,
    third_time,
    total,
    undeterred,
    until,
    wait_for_no_calls,
)
from tests.system import System, nothing_is_left


@pytest.fixture
def at_work(working: System) -> System:
    """A system with a worker that has nothing to do."""
    working.call(wait_for_no_calls)
    return working


@pytest.fixture
def idle(resting: System) -> System:
    """A system without a worker, and without anything that waits for one."""
    resting.call(delete_everything)
    return resting


def delete_everything() -> None:
    Call.objects.all().delete()
    TaskResult.objects.all().delete()


@pytest.fixture(scope="module", params=COLUMNS)
def working(request: pytest.FixtureRequest, make_system: Callable[[str], System]) -> Iterator[System]:
    system = make_system(request.param)
    with system.worker(*WORKER):
        yield system
    nothing_is_left(system.folder)


@pytest.fixture(scope="module", params=COLUMNS)
def resting(request: pytest.FixtureRequest, make_system: Callable[[str], System]) -> Iterator[System]:
    system = make_system(request.param)
    if "CELERY_BROKER_URL" in system.environment:
        yield system
    else:
        with system.worker("-Q", "serial", "-c", "1"):  # whose broker is there as long as it is
            yield system
    nothing_is_left(system.folder)


def add_and_look() -> list[Any]:
    result = add.delay(2, y=3)
    value = result.get(timeout=SECONDS)
    row: Any = TaskResult.objects.get(task_id=result.id)
    in_order = row.date_created <= row.date_started <= row.date_done
    described = [row.task_name, row.task_args, row.task_kwargs, result.queue, row.worker.split("@")[0], in_order]
    return [value, result.state, *described, calls_left()]


@pytest.mark.core
def test_a_result_is_there_and_its_row_says_everything(at_work: System) -> None:
    found = at_work.call(add_and_look)
    assert found == [5, "SUCCESS", "tests.plain.add", '"(2,)"', "\"{'y': 3}\"", "cpu", "celery", True, 0]


def watch_two_run_and_one_wait() -> list[Any]:
    running: Any = group(take.s(3, value=number) for number in range(2)).delay()
    waiting = take.delay(0, value=2)
    until(lambda: [result.state for result in running] == ["STARTED", "STARTED"])
    states = [waiting.state, running[0].state, AsyncResult("nobody").state]
    return [*states, waiting.get(timeout=SECONDS), waiting.state, running[1].get(timeout=SECONDS)]


def test_queued_running_ended_and_unknown_are_four_answers(at_work: System) -> None:
    assert at_work.call(watch_two_run_and_one_wait) == ["PENDING", "STARTED", "PENDING", 2, "SUCCESS", 1]


def call_in_a_transaction() -> list[Any]:
    with transaction.atomic():
        result = add.delay(1, 1)
        time.sleep(0.5)  # long enough for a message to be taken that was sent too early
        row: Any = TaskResult.objects.get(task_id=result.id)
        before = result.state, row.date_started
    return [before, result.get(timeout=SECONDS)]


def call_and_roll_back() -> list[Any]:
    with transaction.atomic():
        result = add.delay(1, 1)
        transaction.set_rollback(True)
    return [result.state, TaskResult.objects.filter(task_id=result.id).count(), calls_left()]


def test_inside_a_transaction_the_message_waits_for_the_commit(at_work: System) -> None:
    assert at_work.call(call_in_a_transaction) == [["PENDING", None], 2]
    assert at_work.call(call_and_roll_back) == ["PENDING", 0, 0]


def call_and_die_before_the_message_is_sent() -> None:
    connection.close()
    with transaction.atomic():
        add.apply_async((20, 1), task_id="orphan")
        transaction.on_commit(lambda: None)
        waiting: list[Any] = connection.run_on_commit
        waiting.insert(0, (set(), lambda: os._exit(0), False))
    os._exit(1)


def wait_for_the_orphan() -> list[Any]:
    if (pid := os.fork()) == 0:
        call_and_die_before_the_message_is_sent()
    assert os.waitpid(pid, 0)[1] == 0
    return [AsyncResult("orphan").state, AsyncResult("orphan").get(timeout=SECONDS)]


def test_a_process_that_dies_before_it_publishes_loses_nothing(at_work: System) -> None:
    assert at_work.call(wait_for_the_orphan) == ["PENDING", 21]


def call_without_results(path: str) -> list[Any]:
    first, second = bare.delay(path), add.apply_async((1, 2), ignore_result=True)
    until(lambda: lines(path))
    add.delay(1, 1).get(timeout=SECONDS)
    return [TaskResult.objects.filter(task_id__in=[first.id, second.id]).count(), calls_left(), first.state]


def test_a_task_without_a_result_leaves_no_row(at_work: System, tmp_path: Path) -> None:
    assert at_work.call(call_without_results, str(tmp_path / "ran")) == [0, 0, "PENDING"]


def send_a_hundred_messages(path: str) -> None:
    with transaction.atomic():
        result = take.delay(0.5, path)
        transaction.on_commit(doubles([result.id], 100))
    result.get(timeout=SECONDS)
    add.delay(1, 1).get(timeout=SECONDS)  # it came after them


def test_a_hundred_messages_of_one_call_run_it_once(at_work: System, tmp_path: Path) -> None:
    path = str(tmp_path / "ran")
    at_work.call(send_a_hundred_messages, path)
    assert lines(path) == ["began-None", "ended-None"]


def retry_and_replace(path: str) -> list[Any]:
    return [third_time.delay(path).get(timeout=SECONDS), replaces_itself.delay(4).get(timeout=SECONDS)]


def watch_states(path: str) -> list[Any]:
    late: Any = third_time.delay(path, countdown=0.5)
    half: Any = halfway.delay(0.5)
    until(lambda: late.state == "RETRY")
    until(lambda: half.state == "HALFWAY")
    return [half.info, half.get(timeout=SECONDS), late.get(timeout=SECONDS)]


def fail_and_look() -> list[Any]:
    bad: Any = fail.delay("because")
    until(bad.ready)
    return [bad.state, repr(bad.result), "Traceback" in bad.traceback]


def test_retries_replacements_and_custom_states_are_celerys(at_work: System, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    assert at_work.call(retry_and_replace, path) == [2, 8]
    assert lines(path) == ["0", "1", "2"]
    assert at_work.call(watch_states, f"{path}-late") == [{"done": 0.5}, "done", 2]
    assert at_work.call(fail_and_look) == ["FAILURE", "ValueError('because')", True]


def run_canvas() -> list[Any]:
    signatures: list[Any] = [
        chain(add.s(1, 2), add.s(3), add.s(4)),
        group(add.s(number, 1) for number in range(10)),
        chord((add.s(number, 1) for number in range(10)), total.s()),
        chord((chain(add.s(number, 1), add.s(1)) for number in range(10)), total.s()),
        chain(group(add.s(1, 1), add.s(2, 2)), total.s(), add.s(1)),
        chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(1, 0)], total.s()),
        add.starmap([(1, 2), (3, 4)]),
        add.chunks(zip(range(4), range(4), strict=True), 2),
    ]
    found = [signature.delay().get(timeout=SECONDS) for signature in signatures]
    wait_for_no_calls()
    return [*found, ChordCounter.objects.count()]


def test_canvas_gives_what_it_should(at_work: System) -> None:
    assert at_work.call(run_canvas) == [10, list(range(1, 11)), 55, 65, 7, 7, [3, 7], [[0, 2], [4, 6]], 0]


def fail_a_part(path: str) -> list[Any]:
    parts = [add.s(1, 1), fail.s(path), chain(fail.si("x"), add.s(1))]
    result = chord(parts, total.s().on_error(on_error.s())).delay()
    until(result.ready)
    wait_for_no_calls()
    return [result.state, repr(result.result), ChordCounter.objects.count()]


def test_a_chord_with_a_failing_part_fails_its_body_and_says_why(at_work: System, tmp_path: Path) -> None:
    state, error, counters = at_work.call(fail_a_part, str(tmp_path / "errback"))
    assert (state, counters) == ("FAILURE", 0)
    assert "ChordError" in error
    assert error.count("raised ValueError") == 1


def run_twice_by_one_id(path: str) -> Any:
    for number in range(2):
        take.apply_async((0, path, number), task_id="again").get(timeout=SECONDS)
    return AsyncResult("again").get()


def call_one_that_runs(path: str) -> Any:
    slow = take.apply_async((1, path, "slow"), task_id="slow")
    take.apply_async((0, path, "late"), task_id="slow")
    return slow.get(timeout=SECONDS)


def test_somebody_may_run_a_task_again_by_its_id(at_work: System, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    assert at_work.call(run_twice_by_one_id, path) == 1
    assert lines(path) == ["began-0", "ended-0", "began-1", "ended-1"]
    assert at_work.call(call_one_that_runs, path) == "slow"
    assert "began-late" not in lines(path)


def call_for_later() -> list[Any]:
    soon, later = add.apply_async((1, 1), countdown=1), add.apply_async((1, 1), countdown=3600)
    found: list[Any] = [soon.state, soon.get(timeout=SECONDS)]
    row: Any = TaskResult.objects.get(task_id=soon.id)
    waited = (row.date_started - row.date_created).total_seconds()
    held = Call.objects.get(task_id=later.id)
    found += [waited, later.state, held.sent_at]
    held.delete()
    return found


def test_a_call_that_is_due_later_runs_then(at_work: System) -> None:
    before, value, waited, *later = at_work.call(call_for_later)
    assert [before, value, *later] == ["PENDING", 2, "PENDING", None]
    assert waited > 0.9


def count_frozen_objects() -> int:
    return int(frozen_objects.delay().get(timeout=SECONDS))


def test_processes_share_the_memory_of_what_was_loaded_before_they_were_forked(at_work: System) -> None:
    """The garbage collector would write to each object, and so give each process pages of its own."""
    assert at_work.call(count_frozen_objects) > 50_000


def break_connections() -> list[Any]:
    kept = {backend_process.delay().get(timeout=SECONDS) for _ in range(12)}
    broken = break_the_connection.delay()
    until(broken.ready)
    interrupted = [softly.delay() for _ in range(2)]  # one for each process
    until(lambda: all(result.ready() for result in interrupted))
    after = {backend_process.delay().get(timeout=SECONDS) for _ in range(12)}
    return [len(kept), len(after & kept), broken.state, *(result.state for result in interrupted)]


def test_connections_are_kept_and_replaced_when_something_went_wrong(at_work: System) -> None:
    kept, left, *states = at_work.call(break_connections)
    assert kept <= 2
    assert states == ["FAILURE"] * 3
    if "DATABASE_URL" in at_work.environment:
        assert left == 0


def await_until_the_soft_limit(path: str) -> list[Any]:
    results = [softly_awaiting.delay(path), undeterred.delay()]
    until(lambda: all(result.ready() for result in results))
    return [results[0].state, repr(results[0].result), results[1].get()]


def test_an_async_task_is_cancelled_at_its_soft_time_limit(at_work: System, tmp_path: Path) -> None:
    state, error, undeterred_result = at_work.call(await_until_the_soft_limit, str(tmp_path / "notes"))
    assert (state, error, undeterred_result) == ("FAILURE", "SoftTimeLimitExceeded()", "cancelled")
    assert lines(tmp_path / "notes") == ["began", "1"]


def call_with_an_object() -> list[int]:
    with pytest.raises(EncodeError):
        add.delay(1, object())  # type: ignore[arg-type]
    return [calls_left(), TaskResult.objects.count()]


def call_without_a_worker() -> list[int]:
    return [add.s(1, 1).apply().get(), add(2, 2), calls_left()]


def test_what_json_cannot_hold_is_refused_at_the_call(idle: System) -> None:
    assert idle.call(call_with_an_object) == [0, 0]


def test_apply_and_calling_the_function_need_no_worker(idle: System) -> None:
    assert idle.call(call_without_a_worker) == [2, 4, 0]


def call_three_hundred() -> list[int]:
    with transaction.atomic():
        group(add.s(number, 1) for number in range(300)).delay()
    return [calls_left(), TaskResult.objects.filter(status="PENDING").count()]


def test_many_calls_in_one_transaction_are_all_there(idle: System) -> None:
    assert idle.call(call_three_hundred) == [300, 300]
