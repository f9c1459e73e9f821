"""The ledger against a model of it that fits a screen: whatever happens, in whatever order, both agree."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from handbell import serial_task
from handbell.common.claims import WORKER_ID, new_claim_token
from handbell.errors import LaneRefused
from handbell.models import Lane, LaneCount, Operation, lane_of
from handbell.serial import lanes, sql
from handbell.serial.apply import BatchApplier
from handbell.serial.claim import OperationClaim, claim_operation, run_external
from handbell.serial.drain import MAX_CRASHES, LaneDrain
from handbell.serial.enqueue import lane_count
from handbell.serial.interrupted import recover_operations
from tasks_app.models import Counter

KEYS = ["a", "b", "c"]
#: What may happen, as often as it is named.
STEPS = (
    "call call call call call_many call_for_later call_and_roll_back what_is_for_later_is_due drain drain drain drain "
    "drain drain claim_and_vanish claim_and_vanish claims_expire an_owner_finishes steer steer treat_one resize"
).split()


class Killed(BaseException):
    """The end of the process."""


@serial_task(on=Counter, create=True)
def add(counter: Counter, by: int) -> int:
    counter.value += by
    return counter.value


@serial_task(on=Counter, create=True)
def fail(counter: Counter, by: int) -> None:
    counter.value += by
    raise ValueError


@serial_task(on=Counter, create=True, on_failure="block")
def block(counter: Counter, by: int) -> None:
    counter.value += by
    raise ValueError


@serial_task(key="tasks_app.counter:{name}", external=True)
def send(name: str, by: int) -> int:
    return by


TASKS = {task.name: task for task in (add, fail, block, send)}
NAMES = [add.name, add.name, add.name, fail.name, send.name, send.name, block.name]


# --- The model ------------------------------------------------------------------------------------------------------


@dataclass
class Op:
    """An operation as the model has it."""

    id: int
    task: str
    key: str
    by: int
    status: str = "queued"
    scheduled: bool = False
    attempts: int = 0
    alive: bool = False  # its owner is at work
    claim: OperationClaim | None = None
    result: int | None = None

    @property
    def pending(self) -> bool:
        return self.status in {"queued", "running"} and not self.scheduled


@dataclass
class Model:
    count: int
    ops: dict[int, Op] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)
    blocked: dict[int, int] = field(default_factory=dict)

    def lane(self, op: Op) -> int:
        return lane_of(Counter.key_of(op.key), self.count)

    def first(self, lane: int) -> Op | None:
        """What a drain of the lane would begin with, if it may."""
        pending = [op for _, op in sorted(self.ops.items()) if op.pending and self.lane(op) == lane]
        if lane in self.paused or lane in self.blocked or any(op.alive for op in pending):
            return None
        return pending[0] if pending else None

    def drain(self, lane: int) -> None:
        while op := self.first(lane):
            self.apply(op)

    def apply(self, op: Op) -> None:
        op.attempts += 1
        if op.attempts > MAX_CRASHES:
            op.status = "lost"
        elif op.task in {fail.name, block.name}:
            op.status = "failed"
            if op.task == block.name:
                self.blocked[self.lane(op)] = op.id
        else:
            op.status, op.result = "succeeded", op.by
            if op.task == add.name:
                op.result = self.totals[op.key] = self.totals.get(op.key, 0) + op.by


# --- The machine ----------------------------------------------------------------------------------------------------


class Ledger(RuleBasedStateMachine):
    """Does each thing to the ledger and to the model, and compares the two."""

    def __init__(self) -> None:
        super().__init__()
        self.block = transaction.atomic()
        self.block.__enter__()
        self.claims: list[tuple[OperationClaim, int]] = []

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.block.__exit__(None, None, None)
        lane_count.value = 0

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        lane_count.value = 0
        lanes.resize(count)
        self.model = Model(count)

    @rule(seed=st.integers(0, 2**32 - 1))
    def step(self, seed: int) -> None:
        """One rule for all, with fair dice, so that each run has some of everything: left to itself Hypothesis likes to
        leave rules out and to repeat itself, and most operations would wait for ever.
        """
        dice = Random(seed)
        getattr(self, dice.choice(STEPS))(dice)

    # Calls

    def call(self, dice: Random) -> None:
        for _ in range(dice.randint(1, 6)):
            name, key, by = dice.choice(NAMES), dice.choice(KEYS), dice.randint(0, 9)
            self.note(TASKS[name].delay(key, by).id, name, key, by)

    def call_many(self, dice: Random) -> None:
        calls = [(dice.choice(KEYS), dice.randint(0, 9)) for _ in range(dice.randint(0, 6))]
        for (key, by), task_id in zip(calls, add.delay_many(calls).ids, strict=True):
            self.note(task_id, add.name, key, by)

    def call_for_later(self, dice: Random) -> None:
        name, key = dice.choice(NAMES), dice.choice(KEYS)
        self.note(TASKS[name].apply_async((key, 1), countdown=60).id, name, key, 1, scheduled=True)

    def note(self, task_id: str, name: str, key: str, by: int, *, scheduled: bool = False) -> None:
        op = Op(Operation.objects.get(task_id=task_id).pk, name, key, by, scheduled=scheduled)
        self.model.ops[op.id] = op

    def call_and_roll_back(self, dice: Random) -> None:
        with suppress(ZeroDivisionError), transaction.atomic():
            add.delay(dice.choice(KEYS), 1)
            raise ZeroDivisionError

    def what_is_for_later_is_due(self, dice: Random) -> None:
        Operation.objects.filter(not_before__isnull=False, status="queued").update(not_before=None)
        for op in self.model.ops.values():
            op.scheduled = op.scheduled and op.status != "queued"

    # Drains

    def drain(self, dice: Random) -> None:
        lane = dice.randrange(self.model.count)
        how = dice.choice(["as usual", "as usual", "one by one", "dying", "row refused"])
        drain = LaneDrain(lane, crash_count=2 if how == "one by one" else 0)
        if how == "dying":
            with pytest.MonkeyPatch.context() as patch, suppress(Killed):
                patch.setattr(LaneDrain, "_note_progress", killed)
                drain.run()
            return
        with refusing_a_row() if how == "row refused" else nullcontext():
            drain.run()
        self.model.drain(lane)

    # External operations

    def claim_and_vanish(self, dice: Random) -> None:
        """A drain claims an external operation; what becomes of its process is decided later."""
        first = {lane: self.model.first(lane) for lane in range(self.model.count)}
        claimable = [n for n, op in first.items() if op and op.task == send.name and op.attempts < MAX_CRASHES]
        if claimable:
            lane = dice.choice(claimable)
            op = first[lane]
            (found, *_) = sql.pending_operations(lane, 10)
            assert op is not None
            assert (found.id, found.lane_claimed) == (op.id, False)
            op.claim = claim_operation(found, new_claim_token())
            self.claims.append((op.claim, lane))
            op.status, op.alive, op.attempts = "running", True, op.attempts + 1

    def claims_expire(self, dice: Random) -> None:
        recover_operations(WORKER_ID)
        for op in self.model.ops.values():
            op.alive, op.status = False, "queued" if op.status == "running" else op.status

    def an_owner_finishes(self, dice: Random) -> None:
        """In time, late, or when somebody else has it: only who has the last claim may say how it ended."""
        if self.claims:
            claim, lane = dice.choice(self.claims)
            op = self.model.ops[claim.operation.id]
            run_external(lane, claim)
            if op.status == "running" and op.claim is claim:
                op.status, op.alive, op.result = "succeeded", False, op.by

    # Steering

    def steer(self, dice: Random) -> None:
        lane = dice.choice([*self.model.blocked, *self.model.paused, dice.randrange(4)])
        how = dice.choice(["resume", "skip", "retry", "pause"])
        blocking = self.model.blocked.get(lane)
        with refused(lane >= self.model.count if how in {"pause", "resume"} else blocking is None):
            getattr(lanes, how)(lane)
            if how == "pause":
                self.model.paused.add(lane)
            elif how == "resume":
                self.model.paused.discard(lane)
            elif how == "skip":
                del self.model.blocked[lane]
            elif blocking is not None:
                self.queued_again(self.model.ops[blocking])

    def treat_one(self, dice: Random) -> None:
        """Retry or cancel; mostly an operation for which that makes sense."""
        how = dice.choice(["retry", "cancel"])
        sensible = {"retry": {"failed", "lost"}, "cancel": {"queued"}}[how]
        good = [op.id for op in self.model.ops.values() if op.status in sensible]
        if not self.model.ops:
            return
        op = self.model.ops[dice.choice(good or sorted(self.model.ops))]
        with refused(op.status not in sensible):
            if how == "retry":
                lanes.retry_operation(op.id)
                self.queued_again(op)
            else:
                lanes.cancel_operation(op.id)
                op.status = "cancelled"

    def queued_again(self, op: Op) -> None:
        op.status, op.attempts = "queued", 0
        self.model.blocked = {lane: by for lane, by in self.model.blocked.items() if by != op.id}

    def resize(self, dice: Random) -> None:
        count = dice.randint(1, 3)
        running = any(op.status == "running" for op in self.model.ops.values())
        with refused(running or bool(self.model.blocked)):
            lanes.resize(count)
            self.model.count = count
            self.model.paused = {lane for lane in self.model.paused if lane < count}

    # What holds at all times

    @invariant()
    def the_operations_agree(self) -> None:
        found = {
            row["id"]: (row["status"], row["attempts"], row["lane"], row["result"])
            for row in Operation.objects.values("id", "status", "attempts", "lane", "result")
        }
        assert found.keys() == self.model.ops.keys()
        for op in self.model.ops.values():
            status, attempts, lane, result = found[op.id]
            assert (status, attempts) == (op.status, op.attempts), op
            assert lane == self.model.lane(op) or not op.pending, op
            assert op.status != "succeeded" or result == str(op.result), op

    @invariant()
    def the_counters_agree(self) -> None:
        assert dict(Counter.objects.values_list("name", "value")) == self.model.totals

    @invariant()
    def the_lanes_agree(self) -> None:
        found = {lane.pk: (lane.paused, lane.blocked_by) for lane in Lane.objects.all()}
        assert found == {
            lane: (lane in self.model.paused, self.model.blocked.get(lane)) for lane in range(self.model.count)
        }
        assert LaneCount.objects.get().count == self.model.count


def killed(*args: Any) -> None:
    raise Killed


@contextmanager
def refused(expected: bool) -> Iterator[None]:
    """The block ends with LaneRefused, if that is what the model expects."""
    if not expected:
        yield
        return
    with pytest.raises(LaneRefused), transaction.atomic():
        yield


@contextmanager
def refusing_a_row() -> Iterator[None]:
    """The next time that rows are written the write fails; later ones do not."""
    write, calls = BatchApplier.write, []

    def fail_once(applier: BatchApplier) -> None:
        calls.append(applier)
        if len(calls) == 1:
            raise ValueError("cannot be written")
        write(applier)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchApplier, "write", fail_once)
        yield


@pytest.mark.django_db
def test_the_ledger_does_what_its_model_does() -> None:
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate],  # add Phase.shrink to understand a failure: that takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
