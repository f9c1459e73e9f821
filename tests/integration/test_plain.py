"""Plain tasks from the outside: their state is known from the call on, whatever becomes of the transaction, the message
or the broker.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import COLUMNS
from tests.system import System, nothing_is_left

WORKER = ("-Q", "cpu", "-c", "2", "--include=tests.plain")


def ask(system: System, code: str, timeout: float = 90) -> Any:
    return system.python(f"from tests.plain import *\nimport time\nanswer = None\n{code}", timeout)


@pytest.fixture
def at_work(working: System) -> System:
    """A system with a worker that has nothing to do."""
    ask(working, "until(lambda: not Call.objects.count())")
    return working


@pytest.fixture
def idle(resting: System) -> System:
    """A system without a worker, and without anything that waits for one."""
    ask(resting, "Call.objects.all().delete(), TaskResult.objects.all().delete()")
    return resting


@pytest.fixture(scope="module", params=COLUMNS)
def working(request: pytest.FixtureRequest, make_system: Any) -> Iterator[System]:
    system = make_system(request.param)
    with system.worker(*WORKER):
        yield system
    nothing_is_left(system.folder)


@pytest.fixture(scope="module", params=COLUMNS)
def resting(request: pytest.FixtureRequest, make_system: Any) -> Iterator[System]:
    system = make_system(request.param)
    if "CELERY_BROKER_URL" in system.environment:
        yield system
    else:
        with system.worker("-Q", "serial", "-c", "1"):  # whose broker is there as long as it is
            yield system
    nothing_is_left(system.folder)


def test_a_result_is_there_and_its_row_says_everything(at_work: System) -> None:
    found = ask(
        at_work,
        """
result = add.delay(2, y=3)
value = result.get(timeout=20)
row = TaskResult.objects.get(task_id=result.id)
answer = [value, result.state, row.task_name, row.task_args, row.task_kwargs, result.queue, row.worker.split("@")[0],
          row.date_created <= row.date_started <= row.date_done, Call.objects.count()]""",
    )
    assert found == [5, "SUCCESS", "tests.plain.add", '"(2,)"', "\"{'y': 3}\"", "cpu", "celery", True, 0]


def test_queued_running_ended_and_unknown_are_four_answers(at_work: System) -> None:
    assert ask(
        at_work,
        """
running, waiting = group(take.s(3, value=number) for number in range(2)).delay(), take.delay(0, value=2)
until(lambda: [result.state for result in running] == ["STARTED", "STARTED"])
answer = [waiting.state, running[0].state, AsyncResult("nobody").state]
answer += [waiting.get(timeout=20), waiting.state, running[1].get(timeout=20)]""",
    ) == ["QUEUED", "STARTED", "PENDING", 2, "SUCCESS", 1]


def test_inside_a_transaction_the_message_waits_for_the_commit(at_work: System) -> None:
    assert ask(
        at_work,
        """
with transaction.atomic():
    result = add.delay(1, 1)
    time.sleep(0.5)
    before = result.state, TaskResult.objects.get(task_id=result.id).date_started
answer = [before, result.get(timeout=20)]
try:
    with transaction.atomic():
        undone = add.delay(1, 1)
        raise KeyError
except KeyError:
    answer += [undone.state, TaskResult.objects.filter(task_id=undone.id).count(), Call.objects.count()]""",
    ) == [["QUEUED", None], 2, "PENDING", 0, 0]


def test_a_process_that_dies_before_it_publishes_loses_nothing(at_work: System) -> None:
    answer = ask(
        at_work,
        """
import os
if (pid := os.fork()) == 0:
    from django.db import connection
    connection.close()
    with transaction.atomic():
        add.apply_async((20, 1), task_id="orphan")
        transaction.on_commit(lambda: None)
        connection.run_on_commit.insert(0, (set(), lambda: os._exit(0), False))
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
started = time.monotonic()
answer = [AsyncResult("orphan").state, AsyncResult("orphan").get(timeout=20), time.monotonic() - started < 8]""",
    )
    assert answer == ["QUEUED", 21, True]


def test_a_task_without_a_result_leaves_no_row(at_work: System, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    assert ask(
        at_work,
        f"""
first, second = bare.delay({str(path)!r}), add.apply_async((1, 2), ignore_result=True)
until(lambda: lines({str(path)!r}))
add.delay(1, 1).get(timeout=20)
answer = [TaskResult.objects.filter(task_id__in=[first.id, second.id]).count(), Call.objects.count(), first.state]""",
    ) == [0, 0, "PENDING"]


def test_a_hundred_messages_of_one_call_run_it_once(at_work: System, tmp_path: Path) -> None:
    path = str(tmp_path / "ran")
    assert ask(
        at_work,
        f"""
with transaction.atomic():
    result = take.delay(0.5, {path!r})
    transaction.on_commit(again([result.id], 100))
result.get(timeout=20)
last = add.delay(1, 1)
last.get(timeout=20)
answer = lines({path!r})""",
    ) == ["began-None", "ended-None"]


def test_retries_replacements_and_custom_states_are_celerys(at_work: System, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    assert ask(
        at_work,
        f"""
result = third_time.delay({path!r})
answer = [result.get(timeout=20), lines({path!r}), replaces_itself.delay(4).get(timeout=20)]
late = third_time.delay({path + "late"!r}, countdown=0.5)
half = halfway.delay(0.5)
until(lambda: late.state == "RETRY")
until(lambda: half.state == "HALFWAY")
answer += [half.info, half.get(timeout=20), late.get(timeout=20)]
bad = fail.delay("because")
until(bad.ready)
answer += [bad.state, repr(bad.result), "Traceback" in bad.traceback]""",
    ) == [2, ["0", "1", "2"], 8, {"done": 0.5}, "done", 2, "FAILURE", "ValueError('because')", True]


def test_canvas_gives_what_it_should(at_work: System) -> None:
    assert ask(
        at_work,
        """
answer = [
    chain(add.s(1, 2), add.s(3), add.s(4)).delay().get(timeout=20),
    group(add.s(number, 1) for number in range(10)).delay().get(timeout=20),
    chord((add.s(number, 1) for number in range(10)), total.s()).delay().get(timeout=20),
    chord((chain(add.s(number, 1), add.s(1)) for number in range(10)), total.s()).delay().get(timeout=20),
    chain(group(add.s(1, 1), add.s(2, 2)), total.s(), add.s(1)).delay().get(timeout=20),
    chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(1, 0)], total.s()).delay().get(timeout=20),
    add.map([(1, 2), (3, 4)]).delay().get(timeout=20) if False else list(add.starmap([(1, 2), (3, 4)])().__iter__()),
    add.chunks(zip(range(4), range(4)), 2).delay().get(timeout=20),
]
until(lambda: not Call.objects.count())
answer.append(ChordCounter.objects.count())""",
    ) == [10, list(range(1, 11)), 55, 65, 7, 7, [3, 7], [[0, 2], [4, 6]], 0]


def test_a_chord_with_a_failing_part_fails_its_body_and_says_why(at_work: System, tmp_path: Path) -> None:
    path = str(tmp_path / "errback")
    answer = ask(
        at_work,
        f"""
result = chord([add.s(1, 1), fail.s({path!r}), chain(fail.si("x"), add.s(1))], total.s().on_error(on_error.s())).delay()
until(result.ready)
until(lambda: not Call.objects.count())
answer = [result.state, repr(result.result), ChordCounter.objects.count()]""",
    )
    assert answer[0] == "FAILURE"
    assert "ChordError" in answer[1]
    assert answer[1].count("raised ValueError") == 1
    assert answer[2] == 0


def test_somebody_may_run_a_task_again_by_its_id(at_work: System, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    assert ask(
        at_work,
        f"""
for number in range(2):
    take.apply_async((0, {path!r}, number), task_id="again").get(timeout=20)
    answer = [AsyncResult("again").get(), lines({path!r})]
slow = take.apply_async((1, {path!r}, "slow"), task_id="slow")
take.apply_async((0, {path!r}, "late"), task_id="slow")
answer += [slow.get(timeout=20), "began-late" in lines({path!r})]""",
    ) == [1, ["began-0", "ended-0", "began-1", "ended-1"], "slow", False]


def test_a_call_that_is_due_later_runs_then(at_work: System) -> None:
    found = ask(
        at_work,
        """
soon, later = add.apply_async((1, 1), countdown=1), add.apply_async((1, 1), countdown=3600)
answer = [soon.state, soon.get(timeout=20)]
row = TaskResult.objects.get(task_id=soon.id)
waited = (row.date_started - row.date_created).total_seconds()
held = Call.objects.get(task_id=later.id)
answer += [0.9 < waited < 4, later.state, held.sent_at]
held.delete()""",
    )
    assert found == ["QUEUED", 2, True, "QUEUED", None]


def test_connections_are_kept_and_replaced_when_something_went_wrong(at_work: System) -> None:
    answer = ask(
        at_work,
        """
kept = {backend_process.delay().get(timeout=20) for _ in range(12)}
broken = break_the_connection.delay()
until(broken.ready)
interrupted = [softly.delay() for _ in range(2)]  # one for each process
until(lambda: all(result.ready() for result in interrupted))
after = {backend_process.delay().get(timeout=20) for _ in range(12)}
answer = [len(kept) <= 2, broken.state, [result.state for result in interrupted], len(after), len(after & kept)]""",
    )
    assert answer[:3] == [True, "FAILURE", ["FAILURE", "FAILURE"]]
    if "DATABASE_URL" in at_work.environment:
        assert answer[4] == 0


def test_quick_ones_are_claimed_and_stored_together(at_work: System) -> None:
    found = ask(
        at_work,
        """
with transaction.atomic():
    results = group(quick.s(number) for number in range(200)).delay()
answer = [results.get(timeout=30) == list(range(1, 201)), quick.delay(1).get(timeout=20)]
answer.append(quick.delay(2).state != "PENDING")
until(lambda: not Call.objects.count())
rows = TaskResult.objects.filter(task_id__in=[result.id for result in results])
answer += [rows.count(), rows.filter(status="SUCCESS", worker__isnull=False, date_started__isnull=False).count()]
answer += [rows.values("date_started").distinct().count() <= 200 / 20 + 30, AsyncResult(rows[0].task_id).queue]""",
    )
    assert found == [True, 2, True, 200, 200, True, "cpu"]


def test_among_quick_ones_each_fails_and_retries_alone(at_work: System) -> None:
    assert ask(
        at_work,
        """
results = group(sometimes.s(number) for number in range(30)).delay()
until(lambda: all(result.ready() for result in results))
answer = [[result.result for result in results if result.state == "SUCCESS"]]
answer += [[str(result.result) for result in results if result.failed()]]
answer += [chord((quick.s(number) for number in range(30)), total.s()).delay().get(timeout=20)]
answer += [chain(quick.s(1), quick.s(2), quick.s(3)).delay().get(timeout=20)]
answer += [quick.apply_async((1,), countdown=0.5).get(timeout=20), quick.apply_async((1,), ignore_result=True).state]
until(lambda: not Call.objects.count())""",
    ) == [
        [number for number in range(30) if number % 3 != 1],
        [str(number) for number in range(30) if number % 3 == 1],
        sum(range(1, 31)),
        7,
        2,
        "PENDING",
    ]


def test_what_json_cannot_hold_is_refused_at_the_call(idle: System) -> None:
    assert ask(
        idle,
        """
try:
    add.delay(1, object())
except Exception as error:
    answer = [type(error).__name__, Call.objects.count(), TaskResult.objects.count()]
result = add.s(1, 1).apply()
answer += [result.get(), add(2, 2), Call.objects.count()]""",
    ) == ["EncodeError", 0, 0, 2, 4, 0]


def test_many_calls_in_one_transaction_are_all_there(idle: System) -> None:
    assert ask(
        idle,
        """
with transaction.atomic():
    group(add.s(number, 1) for number in range(300)).delay()
answer = [Call.objects.count(), TaskResult.objects.filter(status="QUEUED").count()]
until(lambda: Call.objects.filter(sent_at=None).count() <= 100)
Call.objects.all().delete()""",
    ) == [300, 300]
