"""Claims of processes that are dead, silent or stopped are given back; one sweeper at a time looks for them."""

import os

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from handbell import Launch, Operation, over, sweeper
from handbell.celery.forgotten_claims import ForgottenClaims
from handbell.celery.worker_heartbeat import ChildWatch
from handbell.common import leases
from handbell.common.claims import WORKER_ID, claim_owner, new_claim_token
from handbell.common.process_id import _start_of, machine_id
from handbell.common.procfs import ProcessIdentity, ProcessStat
from handbell.isolated import sql as launch_sql
from handbell.models import Call, Chunk, JobRow, Owner, SweeperTurn
from handbell.parallel.claim import claim_chunk
from handbell.plain.sql import claim_call
from handbell.recovery import SilentOwners, recover_claims, recover_from_dead_processes, release_claims
from handbell.serial import sql as serial_sql
from handbell.serial.claim import claim_operation
from tasks_app.tasks import fibonacci, increment_value
from tests.jobs import double
from tests.launches import nothing

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("handbell")]
DEAD_HERE, ELSEWHERE = f"{machine_id()} 1 0", "another-machine 7 1"


def claim_one_of_each(owner: str) -> None:
    """A call, an operation, a chunk, the end of a job and a launch, all claimed by this owner."""
    call, operation = fibonacci.delay(1), increment_value.delay("recovery")
    assert claim_call(call.id, new_claim_token(), "here", "{}")
    lane = Operation.objects.get(task_id=operation.id).lane
    claim_operation(serial_sql.pending_operations(lane, 1)[0], new_claim_token())
    job = over(range(3)).map(double).start()
    assert claim_chunk(job.pk, 0, new_claim_token())
    over(range(3)).map(double).start()
    JobRow.objects.exclude(pk=job.pk).update(claim_token=1, claimed_by=owner)
    nothing.launch()
    assert launch_sql.claim_launches(launch_sql.Claimant(owner, "a" * 32, "there"), new_claim_token(), 1)
    for model in (Call, Operation, Chunk):
        model._default_manager.exclude(claimed_by="").update(claimed_by=owner)


def claims() -> list[str]:
    """Whose they are."""
    return [
        owner
        for model in (Call, Operation, Chunk, JobRow, Launch)
        for owner in model._default_manager.exclude(claimed_by="").values_list("claimed_by", flat=True)
    ]


@pytest.mark.parametrize("owner", ["a-worker 1 2#3", "a-worker 1 2"])
def test_what_a_dead_process_had_claimed_is_given_back_and_a_launch_is_lost(owner: str) -> None:
    claim_one_of_each("a-worker 1 2#3")
    Launch.objects.update(claimed_by=owner)
    recover_claims(owner, "the worker that ran it died")

    assert claims() == []
    assert list(Call.objects.values_list("crash_count", "claim_token")) == [(1, None)]
    assert list(Operation.objects.values_list("status", "attempts", "claim_token")) == [("queued", 1, None)]
    assert list(Chunk.objects.values_list("status", "crash_count", "claim_token")) == [("queued", 1, None)]
    assert list(Launch.objects.values_list("status", "claim_token")) == [("lost", None)]


def test_what_a_worker_that_leaves_had_claimed_counts_no_crash() -> None:
    claim_one_of_each(claim_owner())
    Launch.objects.all().delete()
    release_claims(WORKER_ID)

    assert claims() == []
    assert list(Call.objects.values_list("crash_count", flat=True)) == [0]
    assert list(Operation.objects.values_list("status", "attempts")) == [("queued", 0)]
    assert list(Chunk.objects.values_list("status", "attempts", "crash_count")) == [("queued", 0, 0)]


def test_others_keep_their_claims() -> None:
    claim_one_of_each(ELSEWHERE)
    recover_claims(WORKER_ID, "the worker that ran it died")
    release_claims(claim_owner())

    assert claims() == [ELSEWHERE] * 5


@pytest.mark.parametrize(
    ("changes", "is_released"),
    [
        ([1, 1, 1, 1], False),  # it runs the same task all the time
        ([0, 1, 1, 1], False),  # the claim was made between two looks at it
        ([1, 1, 2, 2], True),  # the task has ended since
        ([1, 1, 3, 3], True),  # and the next one has begun
        ([2, 2, 2, 2], True),  # it had ended before the claim was seen
        ([None, None, None, None], False),  # nobody knows the process
    ],
)
def test_a_claim_is_forgotten_when_its_process_has_run_nothing_since_it_was_seen(
    changes: list[int | None], is_released: bool
) -> None:
    owner, pid, looks = claim_owner(), os.getpid(), iter(changes)
    claim_one_of_each(owner)
    Launch.objects.all().delete()
    claimed = claims()
    forgotten = ForgottenClaims(lambda: {} if (seen := next(looks)) is None else {pid: seen})
    forgotten.release()
    assert claims() == claimed
    forgotten.release()

    assert claims() == ([] if is_released else claimed)
    assert list(Call.objects.values_list("crash_count", flat=True)) == [0]


def test_the_death_of_a_process_of_this_machine_is_seen_at_once() -> None:
    claim_one_of_each(DEAD_HERE)
    for owner in (DEAD_HERE, ELSEWHERE, WORKER_ID):
        Owner.objects.create(pk=owner, kind=Owner.WORKER, name=owner)
    recover_from_dead_processes()

    assert claims() == []
    assert set(Owner.objects.values_list("pk", flat=True)) == {ELSEWHERE, WORKER_ID}


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The sweeper's own, which goes on by a second with each look."""
    made = Clock()
    monkeypatch.setattr(leases.SilenceWatch.__init__, "__defaults__", (made,))
    return made


def look(silent: SilentOwners, clock: Clock, times: int, *, beating: str = "") -> None:
    for _ in range(times):
        clock.seconds += 1
        if beating:
            Owner.objects.get(pk=beating).beat()
        silent.recover()


def test_whoever_is_silent_for_the_lease_loses_its_claims_and_whoever_is_not_keeps_them(clock: Clock) -> None:
    claim_one_of_each(ELSEWHERE)
    Owner.objects.create(pk=ELSEWHERE, kind=Owner.WORKER, name="w")
    silent = SilentOwners()
    look(silent, clock, 40, beating=ELSEWHERE)
    assert claims() == [ELSEWHERE] * 5
    look(silent, clock, 15)
    assert claims() == [ELSEWHERE] * 5
    look(silent, clock, 2)
    assert claims() == []
    assert not Owner.objects.exists()


def test_a_database_that_was_away_for_an_hour_makes_nobody_silent(clock: Clock) -> None:
    claim_one_of_each(ELSEWHERE)
    Owner.objects.create(pk=ELSEWHERE, kind=Owner.WORKER, name="w")
    silent = SilentOwners()
    look(silent, clock, 12)
    clock.seconds += 3600
    look(silent, clock, 1)
    assert claims() == [ELSEWHERE] * 5


def test_an_owner_that_nobody_has_registered_is_dead_after_the_lease_unless_it_is_seen_to_live(clock: Clock) -> None:
    claim_one_of_each(ELSEWHERE)
    silent = SilentOwners()
    look(silent, clock, 17)
    assert claims() == []

    claim_one_of_each(f"{machine_id()} {os.getppid()} {_start_of(os.getppid())}#5")
    before = claims()
    look(silent, clock, 40)
    assert claims() == before


def test_one_that_was_taken_for_dead_registers_again() -> None:
    owner = Owner(pk=ELSEWHERE, kind=Owner.WORKER, name="w")
    owner.beat()
    first = Owner.objects.get().beats
    owner.beat()
    assert Owner.objects.get().beats == first + 1
    Owner.objects.all().delete()
    owner.beat()
    assert Owner.objects.count() == 1


def test_one_that_comes_and_goes_is_not_silent(clock: Clock) -> None:
    """A supervisor is registered while it has something to do, each time under the same id."""
    claim_one_of_each(ELSEWHERE)
    silent = SilentOwners()
    for _ in range(40):
        Owner(pk=ELSEWHERE, kind=Owner.SUPERVISOR, name="s").beat()
        look(silent, clock, 1)
        Owner.objects.all().delete()
    assert claims() == [ELSEWHERE] * 5


# --- The processes of a worker ----------------------------------------------------------------------------------------


def test_a_child_that_is_gone_is_lost_a_moment_later_and_stays_so_until_its_work_is_given_back() -> None:
    watch = ChildWatch()
    watch.look([os.getpid(), 1])
    watch.look([os.getpid()])
    assert watch.lost() == {}
    watch.look([os.getpid()])
    assert watch.lost() == {1: "the process that ran it died"}
    watch.look([os.getpid()])
    assert list(watch.lost()) == [1]
    watch.forget(1)
    assert watch.lost() == {}


def test_a_child_that_dies_before_it_is_looked_for_is_lost_too() -> None:
    watch = ChildWatch()
    watch.look([os.getpid()], born=[os.getpid(), 7])
    watch.look([os.getpid()])
    assert list(watch.lost()) == [7]


def test_a_child_that_is_stopped_for_the_lease_is_lost(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    state = "T"
    monkeypatch.setattr(
        "handbell.celery.worker_heartbeat.process_stat", lambda pid: ProcessStat(ProcessIdentity(pid, "1"), state, 1)
    )
    watch = ChildWatch()

    def look(times: int) -> dict[int, str]:
        for _ in range(times):
            clock.seconds += 1
            watch.look([7])
        return watch.lost()

    assert look(15) == {}
    assert look(3) == {7: "the process that ran it was stopped"}
    state = "S"
    assert look(1) == {}


# --- The turn ---------------------------------------------------------------------------------------------------------


def test_one_sweeper_at_a_time_has_the_turn(clock: Clock) -> None:
    first, second = sweeper.Turn(), sweeper.Turn()
    assert first.is_ours()
    for _ in range(10):
        clock.seconds += 1
        assert not second.is_ours()
        first._kept_at = 0.0
        assert first.is_ours()


def test_another_takes_over_when_it_falls_silent_and_it_notices(clock: Clock) -> None:
    first, second = sweeper.Turn(), sweeper.Turn()
    assert first.is_ours()
    taken = []
    for _ in range(8):
        clock.seconds += 1
        taken.append(second.is_ours())
    assert taken.index(True) in {4, 5}
    first._kept_at = 0.0
    assert not first.is_ours()


@pytest.mark.parametrize("how", ["gives up", "dies"])
def test_another_takes_over_at_once_when_it_is_free(how: str, clock: Clock) -> None:
    first, second = sweeper.Turn(), sweeper.Turn()
    assert first.is_ours()
    if how == "dies":
        SweeperTurn.objects.update(claimed_by=DEAD_HERE)
    else:
        first.give_up()
    assert second.is_ours()


def test_two_that_want_it_at_once_do_not_both_get_it() -> None:
    turn, _ = SweeperTurn.objects.get_or_create(pk=1)
    assert [turn.take_over("a", 1), turn.take_over("b", 2)] == [True, False]


def test_a_sweep_that_finds_nothing_is_a_few_statements(clock: Clock) -> None:
    of_test = sweeper.Sweeper()
    of_test.sweep()
    with CaptureQueriesContext(connection) as queries:
        of_test.sweep()

    assert len(queries) < 25, [query["sql"] for query in queries]
