"""The checker of the fault suite complains of histories that are known to be bad, and of no others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import checker
from tests.faults.histories import BEFORE, Histories
from tests.faults.history import History
from tests.faults.linearizability import MODELS, Step, is_linearizable

SECOND = 1_000_000_000
Row = dict[str, Any]
Database = dict[str, Any]


class Story:
    """A run in which everything went well; tests then spoil it."""

    def __init__(self) -> None:
        self.events: list[Row] = []
        self.database: Database = {
            **{table: {} for table in ("tasks", "operations", "launches", "jobs", "counters")},
            "calls": [],
            "entries": [],
        }
        self.fault("kill-something", 10, 12)

    def fault(self, name: str, begin: float, over: float, *, may_begin_again: bool = False) -> None:
        moments = {"begin": int(begin * SECOND), "over": int(over * SECOND)}
        self.write("fault", over, name=name, may_begin_again=may_begin_again, **moments)

    def write(self, what: str, at: float, **fields: Any) -> Row:
        self.events.append({"what": what, "at": int(at * SECOND), "pid": 1, **fields})
        return self.events[-1]

    def call(self, name: str, kind: str, shape: str, at: float = 11, **detail: Any) -> None:
        """It is made, and acknowledged, and ends within a second."""
        self.write("invoked", at, call=name, kind=kind, shape=shape, **{"ids": [name], **detail})
        self.write("acknowledged", at + 0.1, call=name)
        self.write("ended", at + 0.9, call=name)

    def plain(self, name: str, shape: str = "work", at: float = 11) -> None:
        self.call(name, "plain", shape, at)
        self.begin(name, at + 0.5)
        self.database["tasks"][name] = succeeded(name)

    def begin(self, name: str, at: float, pid: int = 7, **detail: Any) -> None:
        self.write("begun", at, call=name, parent=6, **detail)["pid"] = pid

    def serial(self, name: str, shape: str, key: str, result: int, at: float = 11, **detail: Any) -> None:
        self.call(name, "serial", shape, at, key=key, **detail)
        self.database["operations"][name] = {"status": "succeeded", "result": json.dumps(result)}
        if shape == "append":
            self.database["entries"].append([key, name])

    def job(self, name: str, count: int = 3) -> None:
        self.call(name, "job", "job", count=count)
        self.begin(f"{name}/over", 12)
        values = [item * 3 + 1 for item in range(count)]
        self.database["jobs"][name] = {
            "status": "succeeded",
            "source_state": "complete",
            "failed": 0,
            "error": "",
            "failures": [],
            "results": [[name, value] for value in values],
            "value": [name, sum(values)],
        }
        self.database["entries"] += [[f"saved:{name}", str(value)] for value in values]

    def judge(self) -> list[tuple[str, str, str]]:
        histories = Histories(self.events)
        findings = checker.Judge(histories, self.database).judge().findings
        return sorted({(it.kind, it.call, it.fault) for it in findings})


def succeeded(value: Any) -> Row:
    return {"status": "SUCCESS", "result": json.dumps(value), "periodic_task_name": None, "task_id": value}


def died(name: str) -> Row:
    return {**succeeded(name), "status": "FAILURE", "result": '{"exc_type": "ProcessDied"}'}


@pytest.fixture
def story() -> Story:
    made = Story()
    made.plain("c-plain-1")
    made.plain("c-plain-2", "once")
    made.job("c-job-1")
    made.call("c-launch-1", "launch", "launch")
    made.begin("c-launch-1", 11.2)
    made.database["launches"]["c-launch-1"] = {"status": "succeeded", "result": '"c-launch-1"', "reason": ""}
    for number in (1, 2, 3):
        made.serial(f"c-serial-{number}", "append", "list:0", number, at=10 + number)
    made.serial("c-serial-4", "add", "counter:0", 5, at=14, value=5)
    made.database["counters"]["counter:0"] = 5
    return made


def test_a_good_run_is_not_complained_of(story: Story) -> None:
    assert story.judge() == []


# --- One promise after the other is broken ----------------------------------------------------------------------------


def a_row_is_missing(story: Story) -> None:
    del story.database["tasks"]["c-plain-1"]


def it_waits_for_ever(story: Story) -> None:
    story.database["operations"]["c-serial-4"]["status"] = "queued"
    del story.database["counters"]["counter:0"]


def an_item_is_not_saved(story: Story) -> None:
    story.database["entries"].remove(["saved:c-job-1", "4"])


def a_job_has_no_callback(story: Story) -> None:
    story.events = [event for event in story.events if event.get("call") != "c-job-1/over"]


def it_succeeded_without_its_effect(story: Story) -> None:
    story.database["entries"].remove(["list:0", "c-serial-2"])


def what_may_begin_once_begins_twice(story: Story) -> None:
    story.begin("c-plain-2", 11.8, pid=8)
    story.write("hurt", 11.6, pids=[7])  # this would excuse any other


def a_launch_begins_twice(story: Story) -> None:
    story.begin("c-launch-1", 11.8, pid=8)


def it_begins_twice_for_no_reason(story: Story) -> None:
    story.begin("c-plain-1", 11.8, pid=8)


def an_item_is_saved_twice(story: Story) -> None:
    story.database["entries"].append(["saved:c-job-1", "4"])


def an_operation_is_applied_twice(story: Story) -> None:
    story.database["entries"].append(["list:0", "c-serial-3"])


def an_operation_that_failed_has_left_its_effect(story: Story) -> None:
    story.database["operations"]["c-serial-3"] = {"status": "failed", "result": "null"}


def a_tick_is_fired_twice(story: Story) -> None:
    for number, second in enumerate((1.0, 2.0, 2.1, 3.0)):
        row = {"periodic_task_name": "tick", "date_created": f"2026-01-01 00:00:0{second}+00:00"}
        story.begin(f"tick-{number}", 11 + second)
        story.database["tasks"][f"tick-{number}"] = {**succeeded(f"tick-{number}"), **row}


def calls_of_one_caller_overtake_each_other(story: Story) -> None:
    entries = story.database["entries"]
    entries.append(entries.pop(entries.index(["list:0", "c-serial-1"])))


def a_result_is_wrong(story: Story) -> None:
    story.database["tasks"]["c-plain-1"]["result"] = '"something else"'


def reduce_is_wrong(story: Story) -> None:
    story.database["jobs"]["c-job-1"]["value"] = ["c-job-1", 13]


def what_has_succeeded_is_said_to_have_failed(story: Story) -> None:
    story.database["tasks"]["c-plain-1"] |= {"status": "FAILURE", "result": '{"exc_type": "OperationalError"}'}


def it_is_given_up_though_nobody_touched_its_process(story: Story) -> None:
    story.database["tasks"]["c-plain-2"] = died("c-plain-2")


def a_read_comes_too_late(story: Story) -> None:
    story.write("read", 16.1, call="read", key="counter:0", value=0, invoked=16 * SECOND)


def an_increment_is_lost(story: Story) -> None:
    story.database["counters"]["counter:0"] = 0


@pytest.mark.parametrize(
    ("spoil", "kind", "call"),
    [
        (a_row_is_missing, checker.LOST, "c-plain-1"),
        (it_waits_for_ever, checker.LOST, "c-serial-4"),
        (an_item_is_not_saved, checker.LOST, "c-job-1"),
        (a_job_has_no_callback, checker.LOST, "c-job-1"),
        (it_succeeded_without_its_effect, checker.LOST, "c-serial-2"),
        (what_may_begin_once_begins_twice, checker.BEGUN_TWICE, "c-plain-2"),
        (a_launch_begins_twice, checker.BEGUN_TWICE, "c-launch-1"),
        (it_begins_twice_for_no_reason, checker.BEGUN_TWICE, "c-plain-1"),
        (an_item_is_saved_twice, checker.DOUBLED, "c-job-1"),
        (an_operation_is_applied_twice, checker.DOUBLED, "c-serial-3"),
        (an_operation_that_failed_has_left_its_effect, checker.DOUBLED, "c-serial-3"),
        (a_tick_is_fired_twice, checker.DOUBLED, "tick-2"),
        (calls_of_one_caller_overtake_each_other, checker.OUT_OF_ORDER, "c-serial-1"),
        (a_result_is_wrong, checker.WRONG, "c-plain-1"),
        (reduce_is_wrong, checker.WRONG, "c-job-1"),
        (what_has_succeeded_is_said_to_have_failed, checker.WRONG, "c-plain-1"),
        (it_is_given_up_though_nobody_touched_its_process, checker.KILLED_ALIVE, "c-plain-2"),
        (a_read_comes_too_late, checker.OUT_OF_ORDER, "counter:0"),
        (an_increment_is_lost, checker.OUT_OF_ORDER, "counter:0"),
    ],
)
def test_a_broken_promise_is_found(story: Story, spoil: Callable[[Story], None], kind: str, call: str) -> None:
    spoil(story)

    assert (kind, call, "kill-something") in story.judge()


# --- What is no broken promise ----------------------------------------------------------------------------------------


def test_a_call_whose_process_was_killed_may_begin_again_and_what_may_not_is_lost(story: Story) -> None:
    story.begin("c-plain-1", 11.8, pid=8)
    story.database["tasks"]["c-plain-2"] = died("c-plain-2")
    story.write("hurt", 11.6, pids=[7])

    assert story.judge() == []


def test_a_call_may_begin_again_when_the_database_forgets(story: Story) -> None:
    story.fault("crash", 11, 11.5, may_begin_again=True)
    story.begin("c-plain-1", 11.8, pid=8)

    assert story.judge() == []


def test_what_was_not_acknowledged_may_be_missing_but_not_hang(story: Story) -> None:
    story.write("invoked", 11, call="c-plain-9", kind="plain", shape="work", ids=["c-plain-9"])
    assert story.judge() == []

    story.database["tasks"]["c-plain-9"] = {**succeeded("c-plain-9"), "status": "PENDING"}
    assert story.judge() == [(checker.LOST, "c-plain-9", "kill-something")]


def test_a_finding_names_the_fault_during_which_its_call_was_made(story: Story) -> None:
    story.fault("another", 20, 22)
    story.plain("c-plain-10", at=19.5)  # in the second before it
    del story.database["tasks"]["c-plain-10"]

    assert story.judge() == [(checker.LOST, "c-plain-10", "another")]


def test_histories_are_read_from_files(tmp_path: Path) -> None:
    for part in ("history", "other"):
        (tmp_path / part).mkdir()
    history = History(tmp_path / "history")
    history.write("invoked", call="c-plain-1", kind="plain", shape="work", ids=["c-plain-1"])
    history.write("acknowledged", call="c-plain-1")
    (tmp_path / "database").write_text(json.dumps(Story().database))

    verdict = checker.judge(tmp_path / "history", tmp_path / "database")

    assert [(it.kind, it.call, it.fault) for it in verdict.findings] == [(checker.LOST, "c-plain-1", BEFORE)]
    assert verdict.acknowledged == {BEFORE: 1}


# --- Linearizability --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "steps", "expected"),
    [
        ("counter", [Step("add", 2, 2, 0, 9), Step("add", 3, 5, 1, 3)], True),
        ("counter", [Step("add", 2, 5, 0, 9), Step("add", 3, 3, 1, 3)], True),  # the later one first: they overlap
        ("counter", [Step("add", 2, 5, 0, 2), Step("add", 3, 3, 3, 4)], False),  # they do not
        ("counter", [Step("add", 2, 2, 0, 1), Step("add", 3, 3, 0, 1)], False),  # one has not seen the other
        ("counter", [Step("add", 2, 2, 0, 1), Step("look", None, 0, 2, 3)], False),  # a read of the past
        ("counter", [Step("add", 2, 2, 0, 9), Step("look", None, 0, 2, 3), Step("look", None, 2, 4, 5)], True),
        ("counter", [Step("add", 2, 2, 0, 9), Step("look", None, 2, 2, 3), Step("look", None, 0, 4, 5)], False),
        ("register", [Step("swap", 7, 0, 0, 5), Step("swap", 8, 7, 1, 2), Step("look", None, 8, 6, 7)], True),
        ("register", [Step("swap", 7, 0, 0, 5), Step("swap", 8, 0, 1, 2)], False),
        ("register", [Step("swap", 7, 0, 0, 1), Step("swap", 8, 7, 2, 3), Step("look", None, 7, 4, 5)], False),
        ("list", [Step("append", None, 2, 0, 9), Step("append", None, 1, 1, 2)], True),
        ("list", [Step("append", None, 1, 0, 9), Step("append", None, 1, 1, 2)], False),
    ],
)
def test_whether_an_order_explains_a_history(model: str, steps: list[Step], expected: bool) -> None:
    assert is_linearizable(steps, MODELS[model], 0) is expected


def test_a_long_history_with_many_at_once_is_explained_soon() -> None:
    steps = [Step("add", 1, number + 1, number - 40, number + 40) for number in range(300)]
    steps += [Step("look", None, number, number - 40, number + 40) for number in range(300)]

    assert is_linearizable(steps, MODELS["counter"], 0)
    assert not is_linearizable([*steps, Step("look", None, 7, 500, 501)], MODELS["counter"], 0)
