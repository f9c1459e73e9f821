"""Judges a run by its histories and by what the database holds in the end, and knows nothing of the engine.

A finding is a promise that was broken: what, which call, and during which fault.
"""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.faults import linearizability
from tests.faults.histories import Call, Histories
from tests.faults.history import Tail

LOST = "lost"
BEGUN_TWICE = "begun twice"
DOUBLED = "doubled"
OUT_OF_ORDER = "out of order"
WRONG = "wrong"
KILLED_ALIVE = "killed alive"
KINDS_OF_FINDINGS = (LOST, BEGUN_TWICE, DOUBLED, OUT_OF_ORDER, WRONG, KILLED_ALIVE)

ENDED = {"SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED"}
FINISHED = {"succeeded", "failed", "cancelled", "timed_out", "out_of_memory", "lost"}
TICK_SECONDS = 1.0
ONCE = {"once", "launch"}  # the shapes of what must not begin a second time, whatever happens
Row = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """A broken promise: its kind, the call, what is known of it, and the fault during which the call was made."""

    kind: str
    call: str
    detail: str
    fault: str = ""


@dataclass
class Verdict:
    """What came out: the findings, and how many calls were acknowledged during each fault."""

    findings: list[Finding] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str, fault: str | None = None) -> int:
        return sum(it.kind == kind and fault in {None, it.fault} for it in self.findings)


class Judge:
    """Compares histories with the database."""

    def __init__(self, histories: Histories, database: dict[str, Any]) -> None:
        self.histories, self.database = histories, database
        self.findings: list[Finding] = []

    def find(self, kind: str, call: str, detail: str, at: float | None = None) -> None:
        moment = self.histories.moment_of(call) if at is None else at
        if kind != BEGUN_TWICE and self.histories.is_forgotten(moment):
            return
        self.findings.append(Finding(kind, call, detail, self.histories.named_at(moment)))

    def judge(self) -> Verdict:
        for name, call in self.histories.calls.items():
            kind = call.invoked["kind"]
            judges = {
                "job": self._job,
                "launch": self._launch,
                "serial": self._operation,
                "external": self._operation,
                "poison": self._poison,
            }
            judges.get(kind, self._plain)(name, call)
        for task_id in self.database["calls"]:
            self.find(LOST, task_id, "its call is still in the ledger")
        self._begun()
        self._lists()
        self._histories_of_keys()
        self._ticks()
        counted = Counter(
            self.histories.named_at(call.invoked["at"])
            for call in self.histories.calls.values()
            if call.acknowledged is not None
        )
        return Verdict(self.findings, dict(counted))

    # --- How each call ended ------------------------------------------------------------------------------------------

    def _row(self, name: str, call: Call, row: Row | None, ended: set[str]) -> Row | None:
        """The call's row if it has ended. One that was not acknowledged may be missing, but must end if it is there."""
        if row is None:
            if call.acknowledged is not None:
                self.find(LOST, name, "acknowledged, and not in the database")
        elif row["status"] not in ended:
            self.find(LOST, name, f"{row['status']} for ever")
        else:
            return row
        return None

    def _plain(self, name: str, call: Call) -> None:
        expected = call.invoked.get("expected") or [name]
        for task_id, value in zip(call.invoked["ids"], expected, strict=True):
            row = self._row(task_id, call, self.database["tasks"].get(task_id), ENDED)
            if row is None:
                return  # what follows it is not called
            if row["status"] == "SUCCESS":
                self._result(task_id, json.loads(row["result"]), value)
            if row["status"] != "SUCCESS":
                self._failure(task_id, call, row)
                return

    def _result(self, task_id: str, result: Any, expected: Any) -> None:
        """A task that answers with its process's id shows which of several runs was believed: it must be the last."""
        begun = self.histories.begun[task_id]
        if isinstance(result, list):
            expected = [expected, begun[-1]["pid"] if begun else None]
        if result != expected:
            self.find(WRONG, task_id, f"its result is {result} and not {expected}")

    def _failure(self, task_id: str, call: Call, row: Row) -> None:
        """Nothing that is called here fails by itself: it can only be lost, with the process that ran it."""
        if "ProcessDied" not in str(row["result"]) and row["status"] != "lost":
            if call.invoked["shape"] == "chord" and "ChordError" in str(row["result"]):
                return  # one of its members was lost
            self.find(WRONG, task_id, f"{row['status']}: {row['result']}")
            return
        if not self.histories.explains_loss(task_id):
            self.find(KILLED_ALIVE, task_id, f"{row['status']}: {row['result']} {row.get('reason', '')}")

    def _launch(self, name: str, call: Call) -> None:
        row = self._row(name, call, self.database["launches"].get(name), FINISHED)
        if row is None:
            return
        if row["status"] != "succeeded":
            self._failure(name, call, row)
        elif json.loads(row["result"]) != name:
            self.find(WRONG, name, f"its result is {row['result']}")

    def _operation(self, name: str, call: Call) -> None:
        row = self._row(name, call, self.database["operations"].get(name), FINISHED)
        if row is not None and row["status"] != "succeeded":
            self.find(WRONG, name, f"{row['status']}: {row['result']}")

    def _job(self, name: str, call: Call) -> None:
        job = self.database["jobs"].get(name)
        if call.acknowledged is None and (job is None or job["source_state"] != "complete"):
            return  # its caller was interrupted, and knows it
        job = self._row(name, call, job, FINISHED)
        if job is None:
            return
        items = range(call.invoked["count"])
        values = [item * 3 + 1 for item in items]
        if job["status"] != "succeeded" or job["failed"] or job["error"]:
            self.find(WRONG, name, f"{job['status']}, {job['failed']} failed: {job['error']} {job['failures']}")
            return
        if job["results"] != [[name, value] for value in values]:
            self.find(WRONG, name, f"its results are {str(job['results'])[:200]}")
        if job["value"] != [name, sum(values)]:
            self.find(WRONG, name, f"reduce made {job['value']} of it")
        saved = Counter(int(body) for title, body in self.database["entries"] if title == f"saved:{name}")
        if doubled := saved - Counter(values):
            self.find(DOUBLED, name, f"saved more than once: {dict(doubled)}")
        if missing := Counter(values) - saved:
            self.find(LOST, name, f"not saved: {dict(missing)}")
        if not self.histories.begun[f"{name}/over"]:
            self.find(LOST, name, "its callback was not called")

    def _poison(self, name: str, call: Call) -> None:
        row = self._row(name, call, self.database[call.invoked["ledger"]].get(name), ENDED | FINISHED)
        if row is not None and row["status"] not in call.invoked["ends_as"]:
            self.find(WRONG, name, f"ended as {row['status']}: {str(row.get('result', row.get('error')))[:300]}")
        if (times := len(self.histories.begun[name])) > call.invoked["at_most"]:
            self.find(BEGUN_TWICE, name, f"began {times} times, and may {call.invoked['at_most']} times")

    # --- How often it began -------------------------------------------------------------------------------------------

    def _begun(self) -> None:
        for name, begun in self.histories.begun.items():
            call = self.histories.calls.get(name)
            shape = call.invoked["shape"] if call else "tick"
            for retries in {event.get("retries") for event in begun}:
                same = [event for event in begun if event.get("retries") == retries]
                for first, second in pairwise(same):
                    if shape in ONCE or not self.histories.explains_second_run(first, second):
                        seconds = (second["at"] - first["at"]) / 1e9
                        detail = f"began in process {first['pid']}, and {seconds:.2f} s later in {second['pid']}"
                        self.find(BEGUN_TWICE, name, f"{shape} {detail}")

    # --- Effects and order of serial work -----------------------------------------------------------------------------

    def _lists(self) -> None:
        """Each call that succeeded stands once in its list, and the calls of one caller stand there in their order."""
        lists: dict[str, list[str]] = defaultdict(list)
        for title, body in self.database["entries"]:
            if title.startswith(("own:", "list:")):
                lists[title].append(body)
        for key, entries in lists.items():
            self._entries_of(key, entries)
        stand = {call for entries in lists.values() for call in entries}
        for name, call in self.histories.calls.items():
            if call.invoked["shape"] == "append" and name not in stand and self._has_succeeded(name):
                self.find(LOST, name, "succeeded without its effect")

    def _has_succeeded(self, operation: str) -> bool:
        return bool(self.database["operations"].get(operation, {}).get("status") == "succeeded")

    def _entries_of(self, key: str, entries: list[str]) -> None:
        for name, times in Counter(entries).items():
            if times > 1 or not self._has_succeeded(name):
                operation = self.database["operations"].get(name)
                self.find(DOUBLED, name, f"stands {times} times in {key}; its operation: {operation}")
        numbers: dict[str, list[int]] = defaultdict(list)
        for name in entries:
            caller, _, number = name.rpartition("-")
            numbers[caller].append(int(number))
        for caller, found in numbers.items():
            for before, after in pairwise(found):
                if after < before:
                    self.find(OUT_OF_ORDER, f"{caller}-{after}", f"came after {before} in {key}")

    def _histories_of_keys(self) -> None:
        steps: dict[str, list[linearizability.Step]] = defaultdict(list)
        for name, call in self.histories.calls.items():
            row = self.database["operations"].get(name)
            if call.invoked["kind"] == "serial" and row is not None and row["status"] == "succeeded":
                shape, value, result = call.invoked["shape"], call.invoked.get("value"), json.loads(row["result"])
                step = linearizability.Step(shape, value, result, call.invoked["at"], call.ended)
                steps[call.invoked["key"]].append(step)
        for read in self.histories.reads:
            step = linearizability.Step("look", None, read["value"], read["invoked"], read["at"])
            steps[read["key"]].append(step)
        for key, history in steps.items():
            if self.histories.is_forgotten(min(it.invoked for it in history), max(it.invoked for it in history)):
                continue
            model = linearizability.MODELS[key.partition(":")[0]]
            if key in self.database["counters"]:
                end = max((it.ended for it in history if it.ended < float("inf")), default=0) + 1
                history.append(linearizability.Step("look", None, self.database["counters"][key], end, float("inf")))
            if not linearizability.is_linearizable(history, model, 0):
                at = min(step.invoked for step in history)
                self.find(OUT_OF_ORDER, key, f"no order explains its {len(history)} operations and reads", at)

    # --- Periodic tasks -----------------------------------------------------------------------------------------------

    def _ticks(self) -> None:
        """Two calls of a periodic task that are closer together than its interval are one tick, fired twice; but the
        next tick may follow at once on one that came late.
        """
        rows = [row for row in self.database["tasks"].values() if row["periodic_task_name"] == "tick"]
        moments = sorted((datetime.fromisoformat(row["date_created"]).timestamp(), row["task_id"]) for row in rows)
        for (first, _), (second, _), (third, task_id) in zip(moments, moments[1:], moments[2:], strict=False):
            if third - second < TICK_SECONDS / 2 and second - first < TICK_SECONDS * 1.5:
                self.find(DOUBLED, task_id, f"ticked {third - second:.3f} s after the tick before")


def judge(histories: Path, database: Path) -> Verdict:
    """Judge a run by what it has left in these places."""
    return Judge(Histories(Tail(histories).events()), json.loads(database.read_text())).judge()
