"""Launches in real processes, without database or broker: each ends as it should, and nothing of it is left."""

import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_app.children import adopt_orphans
from tasks_app.isolated import processes, warm
from tasks_app.isolated.child import Surroundings
from tasks_app.isolated.forker import Forker
from tasks_app.isolated.messages import Channel, Ending, Order
from tests import launches
from tests.servers import wait_for


@pytest.fixture(scope="module")
def forker() -> Iterator[warm.Forker]:
    started = warm.Forker()
    yield started
    started.bury()
    adopt_orphans(yes=False)


class Runner:
    last = 0  # the numbers of launches go on from test to test

    def __init__(self, forker: warm.Forker) -> None:
        self.forker = forker
        self.before = Runner.last

    def begin(self, task: Any, *args: Any, **limits: Any) -> int:
        Runner.last += 1
        kwargs = limits.pop("kwargs", {})
        call = task.call(args, kwargs)
        given = {"timeout": call.timeout, "grace": call.grace, "memory_mb": call.memory_mb, **limits}
        order = Order(self.last, f"task-{self.last}", task.name, json.dumps([args, kwargs]), **given)
        self.forker.channel.send("start", [order])
        self.forker.channel.flush()
        return self.last

    def endings(self, count: int, seconds: float = 20) -> list[Ending]:
        found: list[Ending] = []
        deadline = time.monotonic() + seconds
        while len(found) < count:
            assert time.monotonic() < deadline, f"only {found}"
            self.forker.wait(0.2)
            new = (Ending(*content) for kind, content in self.forker.messages() if kind == "ended")
            found += (ending for ending in new if ending.id > self.before)  # none that an earlier test has left
        return found

    def __call__(self, task: Any, *args: Any, **limits: Any) -> Ending:
        self.begin(task, *args, **limits)
        (ending,) = self.endings(1)
        return ending

    def left(self) -> list[str]:
        """Processes of launches that still exist, dead ones that nobody has reaped among them."""
        pid = self.forker.pid
        below = processes.descendants(pid)
        marked = [other for other in processes.everyone() if processes.mark_of(other).startswith(self.forker.name)]
        return [processes.command(other) or "zombie" for other in {*below, *marked} - {pid}]


@pytest.fixture
def run(forker: warm.Forker) -> Iterator[Runner]:
    """Runs a launch to its end; after the test nothing is left of any."""
    runner = Runner(forker)
    yield runner
    assert runner.left() == []
    assert [p for p in processes.everyone() if processes.command(p).startswith("sleep 1000.")] == []


def seconds(ending: Ending) -> float:
    return ending.finished_at - ending.started_at


# --- What a launch finds, and what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "text ✓", [1, {"a": None}], 2**80])
def test_a_value_comes_back(run: Runner, value: Any) -> None:
    ending = run(launches.nothing, value)

    assert (ending.status, json.loads(ending.result or ""), ending.exit_code) == ("succeeded", value, 0)
    assert ending.reason == "returned after 0.0 s"


def test_a_launch_begins_in_a_session_of_its_own_with_nothing_open_and_no_connection(run: Runner) -> None:
    found = json.loads(run(launches.surroundings).result or "")

    assert found == {"files": [0, 1, 2, 3], "leads_its_session": True, "connected": [], "variables": []}


def test_a_bound_task_knows_its_id(run: Runner) -> None:
    number = run.last + 1

    assert json.loads(run(launches.who_am_i).result or "") == [f"task-{number}", "tests.launches.who_am_i"]


def test_an_error_comes_back_as_itself_with_its_traceback(run: Runner) -> None:
    ending = run(launches.fail, "no \0 such \udcff page")

    assert ending.status == "failed"
    assert ending.reason == "ValueError: no \\x00 such \\udcff page, after 0.0 s"
    assert json.loads(ending.result or "")["exc_type"] == "ValueError"
    assert "raise ValueError(text)" in (ending.traceback or "")


def test_a_value_that_json_cannot_hold_or_that_is_too_large_is_said(run: Runner) -> None:
    assert "returned what JSON cannot hold" in run(launches.not_json).reason
    assert "returned 3,000,002 characters of JSON; 1,048,576 are kept" in run(launches.give, 3_000_000).reason
    assert len(json.loads(run(launches.give, 1_000_000).result or "")) == 1_000_000


def test_a_task_that_nobody_knows_is_said(run: Runner) -> None:
    class Unknown:
        name = "tests.unknown"
        call = staticmethod(launches.nothing.call)

    assert "This deployment has no task called tests.unknown" in run(Unknown).reason


def test_of_much_output_the_beginning_and_the_end_are_kept(run: Runner) -> None:
    ending = run(launches.chatter, 5_000_000)

    assert ending.status == "succeeded"
    assert ending.stdout.startswith("beginxxx")
    assert ending.stdout.endswith("xxxend")
    assert "bytes left out …" in ending.stdout
    assert 65_000 < len(ending.stdout) < 66_000


# --- How it ends by itself --------------------------------------------------------------------------------------------


def test_a_crash_is_told_with_its_signal_and_where_it_happened(run: Runner) -> None:
    ending = run(launches.segfault)

    assert (ending.status, ending.exit_code) == ("failed", -11)
    assert ending.reason.startswith("killed by signal 11, SIGSEGV")
    assert "in segfault" in ending.stderr


@pytest.mark.parametrize(
    ("code", "politely", "status", "reason"),
    [
        (3, True, "failed", "exited with code 3 after 0.0 s"),
        (0, True, "succeeded", "returned after 0.0 s"),
        (3, False, "failed", "exited with code 3 after 0.0 s, without returning"),
        (0, False, "failed", "exited with code 0 after 0.0 s, without returning"),
    ],
)
def test_an_exit_is_told_with_its_code(run: Runner, code: int, politely: bool, status: str, reason: str) -> None:
    ending = run(launches.leave, code, kwargs={"politely": politely})

    assert (ending.status, ending.exit_code, ending.reason) == (status, code, reason)


def test_what_it_leaves_behind_goes_with_it_although_it_holds_the_pipes(run: Runner) -> None:
    ending = run(launches.leave_a_child_with_the_pipes)

    assert (ending.status, json.loads(ending.result or "")) == ("succeeded", "gone")
    assert seconds(ending) < 1


def test_a_launch_that_returns_takes_all_its_daemons_with_it(run: Runner) -> None:
    ending = run(launches.bomb, 20, True, timeout=20)

    assert ending.status == "succeeded"


# --- Deadlines --------------------------------------------------------------------------------------------------------


def test_what_it_printed_before_its_deadline_is_kept(run: Runner) -> None:
    ending = run(launches.say_and_hang, "half-way")

    assert (ending.status, ending.stdout, ending.stderr) == ("timed_out", "half-way\n", "HALF-WAY\n")
    assert ending.reason == "ended at its deadline of 1 s: it went at TERM"
    assert json.loads(ending.result or "")["exc_type"] == "TimeLimitExceeded"
    assert 1 <= seconds(ending) < 1.2


@pytest.mark.parametrize(("task", "grace"), [(launches.busy_in_c, 0.1), (launches.stubborn, 0.3)], ids=["c", "term"])
def test_a_loop_in_c_and_an_ignored_term_do_not_help_against_kill(run: Runner, task: Any, grace: float) -> None:
    ending = run(task)

    assert (ending.status, ending.exit_code) == ("timed_out", -9)
    assert ending.reason == "ended at its deadline of 1 s: it ignored TERM and was killed"
    assert 1 + grace <= seconds(ending) < 1.2 + grace


def test_it_may_tidy_up_at_term(run: Runner, tmp_path: Path) -> None:
    ending = run(launches.tidy_up, str(tmp_path / "file"))

    assert ending.status == "timed_out"
    assert (tmp_path / "file").read_text() == "tidy"
    assert seconds(ending) < 2


def test_fifty_grandchildren_in_sessions_of_their_own_die_at_the_deadline(run: Runner) -> None:
    run.begin(launches.bomb, 50)
    wait_for(lambda: len(run.left()) > 50, "all are there")
    (ending,) = run.endings(1)

    assert ending.status == "timed_out"
    assert 2 <= seconds(ending) < 2.4
    assert run.left() == []


def test_a_daemon_that_throws_away_its_mark_is_ended_at_once(run: Runner) -> None:
    ending = run(launches.escape)

    assert ending.status == "timed_out"


def test_who_is_just_becoming_another_program_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its environment is empty for a moment, as that of this one is for ever."""
    monkeypatch.setattr(Forker, "_wake_on_signals", lambda self: None)
    ours, theirs = socket.socketpair()
    around = Surroundings(os.getpid(), (0, 0), 0, "forker", None)
    with ours, theirs, subprocess.Popen(["sleep", "60"], env={}) as bare:
        forker = Forker(Channel(ours), around)
        forker._adopt(bare.pid, {})
        time.sleep(0.05)
        assert bare.poll() is None
        deadline = time.monotonic() + 10
        while bare.poll() is None and time.monotonic() < deadline:
            forker._adopt(bare.pid, {})
        assert bare.returncode == -signal.SIGKILL
        forker.selector.close()


def test_many_that_hang_are_all_dead_on_time(run: Runner) -> None:
    for number in range(60):
        run.begin(launches.stubborn if number % 2 else launches.hang, grace=0.1)
    endings = run.endings(60)

    assert {ending.status for ending in endings} == {"timed_out"}
    assert max(map(seconds, endings)) < 1.5


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_one_that_asks_for_too_much_at_once_does_not_get_it(run: Runner) -> None:
    ending = run(launches.hog)

    assert (ending.status, json.loads(ending.result or "")["exc_type"]) == ("out_of_memory", "MemoryError")
    assert "it had reached its memory limit" in ending.reason


def test_several_that_together_use_too_much_are_killed_while_they_run(run: Runner) -> None:
    ending = run(launches.hogs, 40)

    assert (ending.status, ending.exit_code) == ("out_of_memory", -9)
    assert "MiB, and may use 100" in ending.reason
    assert seconds(ending) < 5


def test_memory_that_is_shared_with_the_forker_does_not_count(run: Runner) -> None:
    ending = run(launches.hogs, 1, timeout=1)

    assert ending.status == "timed_out"


# --- From outside -----------------------------------------------------------------------------------------------------


def test_one_is_cancelled_and_the_others_go_on(run: Runner) -> None:
    first, second = run.begin(launches.hang, timeout=20), run.begin(launches.hang)
    wait_for(lambda: len(run.left()) == 2, "both have begun")
    run.forker.channel.send("cancelled", [first])
    one, other = run.endings(2)

    assert (one.id, one.status) == (first, "cancelled")
    assert (other.id, other.status) == (second, "timed_out")


def test_one_that_cannot_be_started_says_why(run: Runner) -> None:
    before = resource.prlimit(run.forker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(run.forker.pid, resource.RLIMIT_NOFILE, (8, before[1]))
    try:
        ending = run(launches.nothing)
    finally:
        resource.prlimit(run.forker.pid, resource.RLIMIT_NOFILE, before)

    assert (ending.status, ending.pid) == ("failed", None)
    assert ending.reason.startswith("could not be started: Too many open files. Lower LAUNCH_CONCURRENCY")
    assert run(launches.nothing).status == "succeeded"


def test_when_the_forker_is_killed_nothing_stays() -> None:
    forker = warm.Forker()
    run = Runner(forker)
    try:
        run.begin(launches.bomb, 10)
        wait_for(lambda: len(run.left()) > 10, "all are there")
        os.kill(forker.pid, 9)
        forker.wait(10)
        assert {kind for kind, _ in forker.messages()} <= {"began"}, "nothing has ended by itself"
        assert not forker.alive
    finally:
        forker.bury()
    assert run.left() == []


def test_when_the_supervisor_goes_the_forker_ends_everything_and_itself() -> None:
    forker = warm.Forker()
    run = Runner(forker)
    try:
        run.begin(launches.bomb, 10)
        wait_for(lambda: len(run.left()) > 10, "all are there")
        forker.channel.socket.shutdown(2)
        wait_for(lambda: forker.process.poll() is not None, "the forker has ended")
        assert run.left() == []
    finally:
        forker.bury()
