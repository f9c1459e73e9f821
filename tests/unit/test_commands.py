"""`manage.py handbell status | calls | lanes | jobs | launches | settings`: what people and programs are shown."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from celery import chain, chord, current_app
from celery.result import AsyncResult, GroupResult
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone
from django_celery_results.models import TaskResult

import handbell
from handbell import Job, Lane, Launch, Operation, over, states
from handbell.common.process_id import machine_id, process_id
from handbell.conf import declared_settings
from handbell.management import live_workers, system_status
from handbell.management.commands.handbell import SUBCOMMANDS
from handbell.management.running import RunningSystem
from handbell.models import Call, Owner
from handbell.testing import run_all
from tasks_app import tasks
from tests.unit.conftest import Message

Sent = Callable[[], list[Message]]
pytestmark = pytest.mark.django_db


def said(*arguments: str) -> str:
    output = io.StringIO()
    call_command("handbell", *arguments, stdout=output)
    return output.getvalue()


def answered(*arguments: str) -> Any:
    return json.loads(said(*arguments, "--json"))


def lines(*arguments: str) -> list[list[str]]:
    return [line.split() for line in said(*arguments).splitlines()]


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked, and nobody answers."""
    answers(monkeypatch, {})


def answers(monkeypatch: pytest.MonkeyPatch, workers: dict[str, list[str]]) -> None:
    monkeypatch.setattr(system_status, "_workers_that_answer", lambda: workers)


# --- All of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_a_help_that_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        call_command("handbell", name, "--help")

    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("usage: ")
    assert SUBCOMMANDS[name].help.endswith(".")
    assert SUBCOMMANDS[name].help in shown


@pytest.mark.parametrize("name", ["calls", "lanes", "jobs", "launches"])
def test_a_list_is_the_same_with_and_without_its_name(name: str) -> None:
    assert said(name, "list") == said(name)
    assert answered(name) == answered(name, "list") == json.loads(said(name, "--json", "list"))


def test_djangos_own_options_may_stand_anywhere() -> None:
    assert said("-v0", "lanes") == said("lanes", "-v0") == said("lanes", "list", "-v0", "--no-color")


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_is_at_least_one(limit: str) -> None:
    with pytest.raises(CommandError, match="--limit"):
        said("calls", f"--limit={limit}")


# --- Status ----------------------------------------------------------------------------------------------------------


def test_status_of_a_system_without_workers(no_worker: None, sent: Sent) -> None:
    text = said("status")

    assert "broker    embedded Valkey in " in text
    assert "CELERY_BROKER_URL is not set: answers\n" in text
    assert "workers   0 answer\n" in text
    assert "4 open" in text
    assert "Problem: No worker answers. `manage.py handbell up` starts one for each queue." in text
    with pytest.raises(SystemExit) as exit_:
        said("status", "--check")
    assert exit_.value.code == 1


def test_status_of_a_system_in_which_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch, sent: Sent) -> None:
    answers(monkeypatch, {"all@host": ["cpu", "high", "io", "isolated", "serial"]})

    assert "Nothing is wrong." in said("status", "--check")
    status = answered("status")
    assert status["problems"] == []
    assert status["workers"] == [{"name": "all@host", "queues": ["cpu", "high", "io", "isolated", "serial"]}]
    assert [queue["workers"] for queue in status["queues"]] == [["all@host"]] * 5


def test_status_counts_what_waits_in_each_queue_and_says_for_how_long(no_worker: None, sent: Sent) -> None:
    for _ in range(2):
        tasks.fibonacci.delay(20)
    tasks.fibonacci.apply_async((20,), countdown=3600)
    tasks.increment_value.delay("one")
    tasks.call_stuck_partner.launch(1)
    long_ago = timezone.now() - timedelta(hours=1)
    Call.objects.filter(pk=Call.objects.order_by("pk")[0].pk).update(enqueued_at=long_ago)

    status = answered("status")
    found = {queue["name"]: (queue["waiting"], queue["scheduled"]) for queue in status["queues"]}
    assert found == {"serial": (1, 0), "high": (0, 0), "cpu": (2, 1), "io": (0, 0), "isolated": (1, 0)}
    oldest = {queue["name"]: queue["oldest"] for queue in status["queues"]}
    assert 3600 <= oldest["cpu"] < 3700
    assert 0 <= oldest["serial"] < 60
    assert oldest["io"] is None
    assert status["launches"] == {"queued": 1, "running": 0}
    sent()


def test_status_names_a_queue_that_no_worker_takes(monkeypatch: pytest.MonkeyPatch, sent: Sent) -> None:
    answers(monkeypatch, {"most@host": ["cpu", "high", "isolated", "serial"]})
    tasks.scrape_url.delay("http://u/")

    (problem,) = answered("status")["problems"]
    assert problem == "No worker takes the queue io, and 1 wait in it. `manage.py celery worker -Q io` is one."


def test_status_names_a_queue_with_calls_that_is_not_in_the_table(monkeypatch: pytest.MonkeyPatch, sent: Sent) -> None:
    answers(monkeypatch, {"all@host": ["cpu", "high", "io", "isolated", "serial"]})
    tasks.fibonacci.delay(20)
    Call.objects.update(queue="mail")

    status = answered("status")
    assert status["queues"][-1]["name"] == "mail"
    assert status["problems"] == [
        "No worker takes the queue mail, and 1 wait in it. `manage.py celery worker -Q mail` is one."
    ]


def test_status_names_lanes_and_jobs_that_are_held_up(monkeypatch: pytest.MonkeyPatch, sent: Sent) -> None:
    answers(monkeypatch, {"all@host": ["cpu", "high", "io", "isolated", "serial"]})
    Lane.objects.filter(pk=0).update(blocked_by=7)
    Lane.objects.filter(pk__gt=0).update(paused=True)
    tasks.increment_value.delay_many([(f"{number}",) for number in range(40)])
    job = over(range(3)).map(tasks.scored).start("cpu", name="three")
    job.pause()

    status = answered("status")
    assert [lane["state"] for lane in status["lanes"]] == ["blocked", "paused", "paused", "paused"]
    problems = " ".join(status["problems"])
    assert "Lane 0 is blocked by operation 7, which failed" in problems
    assert "`manage.py handbell lanes retry 0`" in problems
    assert "operations wait in it. `manage.py handbell lanes resume 3` resumes it." in problems
    assert f"Job {job.pk}, three, is paused." in problems
    assert "1 blocked, 3 paused" in said("status")


def test_status_says_that_the_broker_does_not_run_and_does_not_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        def runs(self) -> bool:
            return False

    monkeypatch.setattr(system_status, "embedded_broker", Stopped)

    status = answered("status")
    assert status["broker"]["answers"] is False
    assert status["problems"] == [
        "The embedded broker does not run. `manage.py handbell up` starts it, together with everything else."
    ]
    assert "does not answer" in said("status")


def test_status_says_that_the_database_is_not_up_to_date(no_worker: None, sent: Sent) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE handbell_call RENAME TO hidden")
    try:
        if connection.vendor == "sqlite":  # PostgreSQL goes on with no statement of a transaction after an error
            problems = answered("status")["problems"]
            assert problems[0].startswith("The database cannot be used (no such table: handbell_call")
            assert "run `manage.py migrate`" in problems[0]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE hidden RENAME TO handbell_call")


def test_status_says_that_the_ledger_can_only_be_read(monkeypatch: pytest.MonkeyPatch, sent: Sent) -> None:
    answers(monkeypatch, {"all@host": ["cpu", "high", "io", "isolated", "serial"]})
    with read_only():
        status = answered("status")
        text = said("status")
        with pytest.raises(SystemExit):
            said("status", "--check")

    assert status["database"]["answers"]
    assert not status["database"]["takes_writes"]
    (problem,) = status["problems"]
    assert re.match(r"The ledger can be read, but not written \(.*read.?only.*\)\. Make the database writable", problem)
    assert ": can only be read\n" in text
    assert answered("status")["database"]["takes_writes"]


@contextmanager
def read_only() -> Iterator[None]:
    """PostgreSQL and SQLite refuse to write, as a standby and a file do that may only be read."""
    is_sqlite = connection.vendor == "sqlite"
    with suppress(InterruptedError), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA query_only = ON" if is_sqlite else "SET LOCAL transaction_read_only = on")
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA query_only = OFF" if is_sqlite else "SELECT 1")
        raise InterruptedError  # which ends what PostgreSQL was told


def test_without_remote_control_status_reads_from_the_ledger_which_workers_live_and_what_they_take(
    monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    without_control = handbell.Celery("without", set_as_current=False)
    without_control.config_from_object({"worker_enable_remote_control": False})
    monkeypatch.setattr(system_status, "current_app", without_control)
    monkeypatch.setattr(live_workers, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(live_workers, "beat_seconds", lambda: 0.3)
    ended = process_id().rpartition(" ")[0] + " 1"  # its pid has been given to another process
    for owner, name, queues in (
        (process_id(), "here@host", ["serial", "cpu", "high", "io"]),
        (ended, "ended@host", ["isolated"]),
        ("elsewhere/1 1 1", "silent@host", ["isolated"]),
    ):
        Owner.objects.create(pk=owner, kind=Owner.WORKER, name=name, queues=queues)

    status = answered("status")
    assert status["workers"] == [{"name": "here@host", "queues": ["cpu", "high", "io", "serial"]}]
    assert status["problems"] == [
        "No worker takes the queue isolated. `manage.py celery worker -Q isolated` is one.",
    ]
    assert "workers   1 registered as alive; Celery's remote control is off, so none is asked\n" in said("status")

    monkeypatch.setattr(time, "sleep", lambda seconds: Owner.objects.get(name="silent@host").beat())
    assert answered("status")["problems"] == []
    Owner.objects.all().delete()
    assert answered("status")["problems"] == [
        "No worker is registered as alive. `manage.py handbell up` starts one for each queue."
    ]


def test_status_says_where_up_runs(no_worker: None, monkeypatch: pytest.MonkeyPatch, sent: Sent) -> None:
    running = RunningSystem(pid=7, host="here", web="http://127.0.0.1:1", workers=5, ready=True)
    monkeypatch.setattr(system_status, "running_system", lambda: running)

    assert answered("status")["up"] == {
        "pid": 7,
        "machine": machine_id(),
        "host": "here",
        "web": "http://127.0.0.1:1",
        "flower": None,
        "workers": 5,
        "ready": True,
    }
    assert "`handbell up` runs as process 7, pages at http://127.0.0.1:1\n" in said("status")
    running.machine = "another"
    assert "`handbell up` runs as process 7 of here, pages at http://127.0.0.1:1\n" in said("status")


# --- Calls -----------------------------------------------------------------------------------------------------------


def state_of(task_id: str) -> str:
    return str(AsyncResult(task_id).state)


def finished(**values: Any) -> TaskResult:
    now = timezone.now()
    return TaskResult.objects.create(
        **{"task_name": "tasks_app.tasks.score", "status": "SUCCESS", "result": "5", "date_started": now, **values}
    )


def test_calls_are_listed_the_latest_first(sent: Sent) -> None:
    first, second = tasks.fibonacci.delay(20), tasks.score.delay(1)
    finished(task_id="third", worker="cpu@host", meta='{"queue": "cpu"}')

    listed = answered("calls")
    assert [(call["id"], call["state"], call["queue"]) for call in listed] == [
        *(("third", "succeeded", "cpu"), (second.id, "queued", "cpu"), (first.id, "queued", "cpu"))
    ]
    assert [row[:4] for row in lines("calls")[1:]] == [
        *(["third", "score", "succeeded", "cpu"], [second.id, "score", "queued", "cpu"]),
        [first.id, "fibonacci", "queued", "cpu"],
    ]
    assert len(answered("calls", "--limit", "1")) == 1
    sent()


@pytest.mark.parametrize(
    ("state", "celery_state"),
    [
        *(("queued", "PENDING"), ("queued", "RETRY"), ("running", "STARTED"), ("running", "ITS OWN")),
        *(("succeeded", "SUCCESS"), ("failed", "FAILURE"), ("cancelled", "REVOKED")),
    ],
)
def test_calls_are_chosen_by_state(state: str, celery_state: str) -> None:
    for other in ("PENDING", "STARTED", "SUCCESS", "FAILURE", "REVOKED"):
        finished(task_id=f"a {other}", status=other)
    finished(task_id="mine", status=celery_state)

    found = answered("calls", "--state", state)
    assert {call["state"] for call in found} == {state}
    assert "mine" in {call["id"] for call in found}


def test_calls_are_chosen_by_a_part_of_the_tasks_name_or_by_a_name_that_is_not_registered() -> None:
    finished(task_id="a")
    finished(task_id="b", task_name="tasks_app.tasks.fibonacci")
    finished(task_id="c", task_name="another.program")

    assert [call["id"] for call in answered("calls", "--task", "FIBO")] == ["b"]
    assert [call["id"] for call in answered("calls", "--task", "another.program")] == ["c"]


def test_a_call_is_shown_with_what_came_out_of_it(sent: Sent) -> None:
    waiting = tasks.score.delay(7)
    error = json.dumps({"exc_type": "ValueError", "exc_message": ["no page"], "exc_module": "builtins"})
    finished(task_id="failed", status="FAILURE", result=error, traceback="Traceback …\nValueError: no page")
    finished(task_id="done")

    assert answered("calls", "show", waiting.id)["state"] == "queued"
    assert answered("calls", "show", waiting.id)["crash_count"] == 0
    assert answered("calls", "show", "done")["result"] == 5
    shown = answered("calls", "show", "failed")
    assert (shown["error"], shown["result"]) == ("ValueError: no page", None)
    text = said("calls", "show", "failed")
    assert "error     ValueError: no page\n" in text
    assert "--- traceback\nTraceback …\nValueError: no page" in text
    with pytest.raises(CommandError, match=r"There is no call nonsense. `manage.py handbell calls` lists the latest."):
        said("calls", "show", "nonsense")
    sent()


def test_a_call_that_waits_is_revoked_and_its_message_finds_nothing_to_do(sent: Sent) -> None:
    result = tasks.increment_plain.delay("mine")

    assert said("calls", "revoke", result.id) == f"Call {result.id} is revoked.\n"
    assert state_of(result.id) == "REVOKED"
    assert not Call.objects.exists()
    run_all()
    assert state_of(result.id) == "REVOKED"
    with pytest.raises(CommandError, match="No call .* waits or runs"):
        said("calls", "revoke", result.id)


def test_a_chord_whose_part_is_revoked_fails_as_with_celery(sent: Sent) -> None:
    body = chord([tasks.score.s(1), tasks.score.s(2)], tasks.aggregate_results.s())()
    assert isinstance(body.parent, GroupResult)
    assert body.parent.results
    said("calls", "revoke", str(body.parent.results[0].id))
    run_all()

    assert body.state == "FAILURE"
    assert "TaskRevokedError" in repr(body.result)


def test_the_rest_of_a_chain_whose_first_link_is_revoked_never_runs(sent: Sent) -> None:
    last = chain(tasks.scrape_url.s("http://u/"), tasks.find_frequency.s(["a"]))()
    assert last.parent is not None
    said("calls", "revoke", last.parent.id)
    run_all()

    assert state_of(last.parent.id) == "REVOKED"
    assert state_of(last.id) != "SUCCESS"
    assert not Call.objects.exists()


def test_a_call_that_runs_is_revoked_only_with_its_process(monkeypatch: pytest.MonkeyPatch, sent: Sent) -> None:
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(current_app.control, "revoke", lambda task_id, **options: told.append((task_id, options)))
    result = tasks.score.delay(1)
    Call.objects.update(claimed_by="somebody")

    with pytest.raises(CommandError, match="it runs. With --terminate its process is ended."):
        said("calls", "revoke", result.id)
    assert told == []
    assert said("calls", "revoke", result.id, "--terminate") == f"Call {result.id} is being ended by its worker.\n"
    assert told == [(result.id, {"terminate": True})]
    sent()


# --- Lanes, jobs and launches as JSON --------------------------------------------------------------------------------


def test_lanes_as_json(sent: Sent) -> None:
    tasks.increment_value.delay("one")
    Lane.objects.filter(pk=0).update(paused=True)

    lanes = answered("lanes")
    assert [lane["lane"] for lane in lanes] == [0, 1, 2, 3]
    assert (lanes[0]["state"], lanes[1]["state"]) == ("paused", "open")
    assert sum(lane["depth"] for lane in lanes) == Operation.objects.count() == 1
    sent()


NO_WORKER = "No worker takes the queue cpu. `manage.py celery worker -Q cpu` is one."


def test_jobs_are_listed_and_shown(sent: Sent) -> None:
    job = over(range(3)).map(tasks.scored).start("cpu", name="three")
    over(range(3)).map(tasks.scored).start("io", name="others")

    assert [row["name"] for row in answered("jobs")] == ["others", "three"]
    (listed,) = answered("jobs", "--name", "thr")
    assert (listed["id"], listed["state"], listed["total"], listed["queue"]) == (job.pk, "queued", 3, "cpu")
    assert answered("jobs", "list", "--name", "thr") == [listed]
    assert answered("jobs", "show", str(job.pk)) == {**listed, "value": None, "problem": NO_WORKER, "error": ""}
    assert "total      3\n" in said("jobs", "show", str(job.pk))
    Job.objects.filter(pk=job.pk).update(error="ValueError: no page")
    assert "--- error\nValueError: no page" in said("jobs", "show", str(job.pk))
    with pytest.raises(CommandError, match="There is no job 0"):
        said("jobs", "show", "0")
    sent()


def test_launches_are_listed_and_shown(sent: Sent) -> None:
    tasks.call_stuck_partner.launch(1)
    launch = Launch.objects.get()
    Launch.objects.update(status=states.SUCCEEDED, result='{"a": 1}', stdout="printed", reason="it returned")

    (listed,) = answered("launches", "--state", "succeeded")
    assert (listed["launch"], listed["state"], listed["how_it_ended"]) == (launch.pk, "succeeded", "it returned")
    assert answered("launches", "--state", "failed") == []
    shown = answered("launches", "show", str(launch.pk))
    assert (shown["arguments"], shown["result"], shown["stdout"]) == ([[1], {}], {"a": 1}, "printed")
    assert "--- stdout\nprinted" in said("launches", "show", str(launch.pk))
    sent()


# --- Settings --------------------------------------------------------------------------------------------------------


def test_every_setting_is_listed_with_its_value_its_default_and_what_it_is_for(settings: LazySettings) -> None:
    settings.HANDBELL_LEASE_SECONDS, settings.HANDBELL_CONCURRENCY = "30", "cpu=2,io=3"
    rows = {row["name"]: row for row in answered("settings")}

    assert list(rows) == [setting.name for setting in declared_settings()]
    lease = rows["HANDBELL_LEASE_SECONDS"]
    assert (lease["value"], lease["is_set"], lease["default"]) == ("30", True, "15")
    assert lease["allowed"] == "a whole number from 3 to 86400"
    assert rows["HANDBELL_CONCURRENCY"]["value"] == "cpu=2,io=3"
    assert rows["HANDBELL_STOP_SECONDS"]["is_set"] is False
    text = " ".join(said("settings").split())
    for row in rows.values():
        assert row["name"] in text


def test_a_secret_setting_is_hidden(settings: LazySettings) -> None:
    settings.HANDBELL_FLOWER_BASIC_AUTH = "user:hush"

    assert "hush" not in said("settings") + said("settings", "--json")
    assert "(hidden)" in said("settings")
