"""The supervisor and the sweeper, with the ledger and with real processes: at most once, and nothing waits for ever."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import OperationalError, connection, connections
from django.utils import timezone

from handbell.common import broker, stop_pipe
from handbell.common.child_process import adopt_orphans
from handbell.common.claims import WORKER_ID
from handbell.common.doorbell import DoorbellMessage
from handbell.isolated import fork_client, launches, sql
from handbell.isolated.doorbell import launches_doorbell
from handbell.isolated.lost import record_lost_launches
from handbell.isolated.supervise import LaunchSupervisor, _supervisor_lock, supervise
from handbell.isolated.sweep import sweep_launches
from handbell.models import Doorbell, Launch, Owner
from tests.launches import fail, hang, nothing, statuses, stubborn, wait_for_file
from tests.servers import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
HERE, ELSEWHERE = sql.Claimant("one", "a" * 32, "here"), sql.Claimant("another", "b" * 32, "elsewhere")
#: The SQLite database of these tests lives in memory, where two threads lock each other out.
two_threads = pytest.mark.skipif(connection.vendor == "sqlite", reason="needs a database that two threads can use")


@pytest.fixture(scope="module", autouse=True)
def _fork_server_ends_with_this_module() -> Iterator[None]:
    yield
    fork_client.close_fork_client()
    adopt_orphans(enabled=False)


@pytest.fixture(autouse=True)
def rings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the doorbell was sent; it goes nowhere."""
    sent: list[int] = []

    def send(self: DoorbellMessage) -> bool:
        sent.append(1)
        return True

    monkeypatch.setattr(DoorbellMessage, "send", send)
    return sent


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_everything_that_waits_is_run_its_outcome_kept_and_a_failure_logged(caplog: pytest.LogCaptureFixture) -> None:
    results = [nothing.delay(number) for number in range(40)]
    failed = fail.launch("no cover")

    supervise()

    assert [result.get(timeout=1) for result in results] == list(range(40))
    failed.refresh_from_db()
    assert failed.status == "failed"
    assert failed.reason.startswith("ValueError: no cover, after ")
    assert "raise ValueError(text)" in (failed.traceback or "")
    assert failed.started_at is not None
    assert failed.finished_at is not None
    assert failed.finished_at >= failed.started_at >= failed.enqueued_at
    assert (failed.exit_code, failed.claimed_by, failed.claim_token) == (1, "", None)
    (record,) = [it for it in caplog.records if it.name == "handbell.isolated.supervise"]
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith(f"Launch {failed.pk} ended as failed: ValueError: no cover, after ")
    assert "raise ValueError(text)" in record.getMessage()


def test_the_flag_is_down_afterwards_and_a_doorbell_too_many_finds_nothing() -> None:
    nothing.delay()
    supervise()
    supervise()

    assert statuses() == ["succeeded"]
    assert not Doorbell.objects.get(name="launches").rung


@two_threads
def test_no_more_run_at_once_than_the_setting_says(settings: LazySettings) -> None:
    settings.HANDBELL_LAUNCH_CONCURRENCY = 2
    for _ in range(4):
        hang.apply_async(time_limit=0.3)
    counts = []

    thread = in_thread(supervise)
    while thread.is_alive():
        counts.append(Launch.objects.filter(status="running").count())
    thread.join()

    assert statuses() == ["timed_out"] * 4
    assert max(counts) == 2


def test_a_claim_is_made_once_whoever_asks() -> None:
    nothing.launch_many(range(10))

    first, second = sql.claim_launches(HERE, 1, 6), sql.claim_launches(ELSEWHERE, 2, 6)

    assert [len(first), len(second)] == [6, 4]
    assert not {order.id for order in first} & {order.id for order in second}
    assert sql.claim_launches(HERE, 3, 6) == []


def test_what_a_launch_came_to_is_not_written_for_another_owner() -> None:
    launch = nothing.launch()
    sql.claim_launches(ELSEWHERE, 1, 1)
    supervisor = LaunchSupervisor(fork_client.fork_client(), Owner(pk="me"))
    supervisor.running = {launch.pk: 2}
    supervisor.server.channel.send("start", [(launch.pk, "x", nothing.name, "[[],{}]", 5, 0.1, 512)])

    supervisor.run()

    assert statuses() == ["running"]


@pytest.mark.parametrize(
    ("worker", "may_supervise"),
    [(WORKER_ID, False), (f"another {WORKER_ID}", True)],
    ids=["same worker", "a worker of another container with the same pid, in the same folder"],
)
def test_while_one_is_at_work_a_second_one_of_the_same_worker_leaves(
    monkeypatch: pytest.MonkeyPatch, worker: str, may_supervise: bool
) -> None:
    with _supervisor_lock() as ours:
        assert ours
        monkeypatch.setattr("handbell.isolated.supervise.WORKER_ID", worker)
        pid = os.fork()
        if pid == 0:
            with _supervisor_lock() as also:
                os._exit(int(also))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == int(may_supervise)


@two_threads
def test_one_that_runs_is_cancelled_by_its_supervisor() -> None:
    launch = hang.launch()
    Launch.objects.update(timeout=30)
    thread = in_thread(supervise)
    wait_for(lambda: Launch.objects.filter(pid__isnull=False).exists(), "it runs, and says where")

    assert launches.cancel(launch.pk) == "running"
    thread.join(10)

    launch.refresh_from_db()
    assert launch.status == "cancelled"
    assert launch.reason.startswith("cancelled after")
    assert Launch.objects.filter(pk=launch.pk, host__gt="", pid__gt=0).exists()


@two_threads
def test_one_that_is_not_ours_any_more_is_ended(settings: LazySettings) -> None:
    settings.HANDBELL_LEASE_SECONDS = 3
    launch = hang.launch()
    Launch.objects.update(timeout=30)
    thread = in_thread(supervise)
    wait_for(lambda: Launch.objects.filter(pid__isnull=False).exists(), "it runs")

    Launch.objects.update(status="lost")
    thread.join(10)

    assert not thread.is_alive()
    launch.refresh_from_db()
    assert launch.status == "lost"


@two_threads
def test_when_the_fork_server_dies_its_launches_are_lost_and_the_rest_is_run(settings: LazySettings) -> None:
    settings.HANDBELL_LAUNCH_CONCURRENCY = 2
    lost = [stubborn.launch(), stubborn.launch()]
    Launch.objects.update(timeout=30)
    nothing.delay(1)
    thread = in_thread(supervise)
    wait_for(lambda: Launch.objects.filter(pid__isnull=False).count() == 2, "two run")

    os.kill(fork_client.fork_client().pid, 9)
    thread.join(20)

    assert statuses() == ["lost", "lost", "succeeded"]
    lost[0].refresh_from_db()
    assert lost[0].reason == "lost: the process that it was forked from has died, and it was killed"


@two_threads
def test_a_worker_that_is_told_to_stop_gives_launches_a_moment(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings.HANDBELL_STOP_SECONDS = 2
    wait_for_file.delay(str(tmp_path / "go_on"))
    hang.apply_async(time_limit=30)
    settings.HANDBELL_LAUNCH_CONCURRENCY = 2
    nothing.delay()
    thread = in_thread(supervise)
    wait_for(lambda: Launch.objects.filter(status="running").count() == 2, "two run")

    monkeypatch.setattr(stop_pipe, "is_stop_announced", lambda: True)
    (tmp_path / "go_on").touch()
    thread.join(20)

    assert statuses() == ["succeeded", "lost", "queued"]
    assert "because its worker was told to stop" in Launch.objects.get(status="lost").reason


def test_a_database_that_does_not_answer_delays_the_outcome_and_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = sql.finish_launches
    failures: list[Any] = []

    def fail_at_first(*args: Any) -> None:
        if len(failures) < 2:
            failures.append(args)
            raise OperationalError("the server closed the connection")
        finish(*args)

    monkeypatch.setattr(sql, "finish_launches", fail_at_first)
    result = nothing.delay(7)

    supervise()

    assert len(failures) == 2
    assert result.get(timeout=1) == 7


def test_the_launches_of_a_dead_fork_server_are_recorded_however_long_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish = sql.finish_launches
    failures: list[Any] = []

    def fail_at_first(*args: Any) -> None:
        if len(failures) < 3:
            failures.append(args)
            raise OperationalError("the server closed the connection")
        finish(*args)

    rows = [stubborn.launch(), stubborn.launch()]
    supervisor = LaunchSupervisor(fork_client.fork_client(), Owner(pk=HERE.owner))
    sql.claim_launches(HERE, 1, 2)
    supervisor.running = {row.pk: 1 for row in rows}
    os.kill(supervisor.server.pid, 9)
    monkeypatch.setattr(sql, "finish_launches", fail_at_first)

    supervisor.run()

    assert len(failures) == 3
    assert statuses() == ["lost", "lost"]


def test_launches_whose_claim_was_made_without_an_answer_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    claim, answers = sql.claim_launches, []

    def lose_the_first_answer(*args: Any) -> Any:
        answers.append(claim(*args))
        if len(answers) == 1:
            raise OperationalError("the server closed the connection")
        return answers[-1]

    monkeypatch.setattr(sql, "claim_launches", lose_the_first_answer)
    lost = nothing.delay(1)

    supervise()

    assert (len(answers), lost.get(timeout=1)) == (1, 1)


# --- The sweeper ------------------------------------------------------------------------------------------------------


def age_the_doorbell(seconds: float) -> None:
    Doorbell.objects.filter(name="launches").update(rung_at=timezone.now() - timedelta(seconds=seconds))


def test_a_doorbell_that_was_lost_is_rung_again_each_time_later(
    rings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "is_queue_empty", lambda queue: False)
    nothing.delay()
    assert len(rings) == 1
    sweep_launches()
    assert len(rings) == 1  # it may be on its way
    for times, patience in enumerate((2, 4, 8, 16, 32, 64, 64), start=2):
        age_the_doorbell(patience + 0.1)
        sweep_launches()
        assert len(rings) == times
        sweep_launches()
        age_the_doorbell(min(2 * patience, 64) - 1)
        sweep_launches()
        assert len(rings) == times


def test_a_caller_that_died_before_it_rang_is_rung_for(rings: list[int]) -> None:
    nothing.delay()
    launches_doorbell.answer()
    rings.clear()

    sweep_launches()
    assert len(rings) == 1

    Launch.objects.update(status="succeeded")
    age_the_doorbell(100)
    sweep_launches()
    assert len(rings) == 1  # nothing waits


def test_a_launch_whose_supervisor_is_not_heard_of_is_lost_and_never_starts_again() -> None:
    launch, kept = nothing.launch(), nothing.launch()
    sql.claim_launches(ELSEWHERE, 1, 1)
    sql.claim_launches(HERE, 2, 1)

    record_lost_launches(ELSEWHERE.owner)
    supervise()

    assert statuses() == ["lost", "running"]
    launch.refresh_from_db()
    assert launch.reason == "lost: its supervisor on elsewhere died or was cut off, and nobody knows how far it came"
    assert json.loads(launch.result or "")["exc_type"] == "ProcessDied"
    kept.refresh_from_db()
    assert kept.claim_token == 2
