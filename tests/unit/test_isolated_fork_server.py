"""Launches in real processes, without database or broker: each ends as it should, and nothing of it is left.

That a deadline is kept within milliseconds is measured by benchmarks/launch.py; a busy machine may take longer.
"""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from handbell.common import procfs
from handbell.common.child_process import adopt_orphans
from handbell.isolated.cgroups import MAX_LAUNCH_PROCESSES, LaunchGroups, launch_fence, servers_with_groups
from handbell.isolated.child import ServerContext
from handbell.isolated.fork_client import PROGRAM, ForkClient
from handbell.isolated.fork_server import EXEC_SECONDS, ForkServer
from handbell.isolated.process_labels import LABEL_VARIABLE, ProcessLabel, label_of
from handbell.isolated.process_tree import ProcessTree
from handbell.isolated.protocol import Channel, LaunchOrder, LaunchReport
from tests import launches
from tests.servers import wait_for

MAX_LATE_SECONDS = 3.0  # on a machine that does other things, too
LONG_SECONDS = 60.0  # a timeout that does not matter
ESCAPED_SECONDS = f"1000.{os.getpid()}"  # known by this, since it has no label


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkClient]:
    """One that may make no control groups, as on most machines."""
    yield from started(cgroups="no")


@pytest.fixture(scope="module")
def fork_server_with_groups() -> Iterator[ForkClient]:
    if launch_fence() != "a control group each":
        pytest.skip("needs cgroup v2, and leave to make groups in it")
    yield from started(cgroups="yes")


def started(*, cgroups: str) -> Iterator[ForkClient]:
    with mock.patch.dict(os.environ, HANDBELL_LAUNCH_CGROUPS=cgroups):
        client = ForkClient()
    client.wait_until_ready()
    yield client
    client.close()
    adopt_orphans(enabled=False)
    assert client.name not in servers_with_groups()


class Runner:
    last = 0  # the numbers of launches go on from test to test

    def __init__(self, fork_server: ForkClient) -> None:
        self.fork_server = fork_server
        self.before = Runner.last

    def begin(self, task: Any, *args: Any, **limits: Any) -> int:
        Runner.last += 1
        kwargs = limits.pop("kwargs", {})
        call = task.bind_arguments(args, kwargs)
        given = {"timeout": call.timeout, "grace": call.grace, "memory_mb": call.memory_mb, **limits}
        order = LaunchOrder(self.last, f"task-{self.last}", task.name, json.dumps([args, kwargs]), **given)
        self.fork_server.channel.send("start", [order])
        self.fork_server.channel.flush()
        return self.last

    def reports(self, count: int, seconds: float = 20) -> list[LaunchReport]:
        found: list[LaunchReport] = []
        deadline = time.monotonic() + seconds
        while len(found) < count:
            assert time.monotonic() < deadline, f"only {found}"
            self.fork_server.wait(0.2)
            new = (LaunchReport(*content) for kind, content in self.fork_server.messages() if kind == "ended")
            found += (report for report in new if report.id > self.before)  # none that an earlier test has left
        return found

    def __call__(self, task: Any, *args: Any, **limits: Any) -> LaunchReport:
        self.begin(task, *args, **limits)
        (report,) = self.reports(1)
        return report

    def left(self) -> list[str]:
        """Processes of launches that still exist, dead ones that nobody has reaped among them."""
        pid = self.fork_server.pid
        descendants = procfs.descendants_of(pid)
        labels = {other: label_of(other) for other in procfs.all_pids()}
        labelled = [other for other, label in labels.items() if label and label.server == self.fork_server.name]
        return [procfs.command_line(other) or "zombie" for other in {*descendants, *labelled} - {pid}]


@pytest.fixture
def run(fork_server: ForkClient) -> Iterator[Runner]:
    """Runs a launch to its end; after the test nothing is left of any."""
    runner = Runner(fork_server)
    yield runner
    assert runner.left() == []
    assert not has_escaped()


@pytest.fixture
def run_in_group(fork_server_with_groups: ForkClient) -> Iterator[Runner]:
    runner = Runner(fork_server_with_groups)
    yield runner
    assert runner.left() == []
    assert not has_escaped()


def has_escaped() -> bool:
    """Whether a process of `launches.escape` still exists."""
    return any(procfs.command_line(pid).startswith(f"sleep {ESCAPED_SECONDS}") for pid in procfs.all_pids())


def seconds(report: LaunchReport) -> float:
    return report.finished_at - report.started_at


def reason(report: LaunchReport) -> str:
    """How it ended, however long that took."""
    return re.sub(r"after \d+\.\d s", "after N s", report.reason)


# --- What a launch finds, and what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "text ✓", [1, {"a": None}], 2**80])
def test_a_value_comes_back(run: Runner, value: Any) -> None:
    report = run(launches.nothing, value)

    assert (report.status, json.loads(report.result or ""), report.exit_code) == ("succeeded", value, 0)
    assert reason(report) == "returned after N s"


def test_a_launch_begins_in_a_session_of_its_own_with_nothing_open_and_no_connection(run: Runner) -> None:
    found = json.loads(run(launches.surroundings).result or "")

    assert found == {"files": [0, 1, 2, 3], "leads_its_session": True, "connected": [], "variables": []}


def test_a_bound_task_knows_its_id(run: Runner) -> None:
    number = run.last + 1

    assert json.loads(run(launches.who_am_i).result or "") == [f"task-{number}", "tests.launches.who_am_i"]


def test_an_error_comes_back_as_itself_with_its_traceback(run: Runner) -> None:
    report = run(launches.fail, "no \0 such \udcff page")

    assert report.status == "failed"
    assert reason(report) == "ValueError: no \\x00 such \\udcff page, after N s"
    assert json.loads(report.result or "")["exc_type"] == "ValueError"
    assert "raise ValueError(text)" in (report.traceback or "")


def test_a_value_that_json_cannot_hold_or_that_is_too_large_is_said(run: Runner) -> None:
    assert "returned what JSON cannot hold" in run(launches.not_json).reason
    assert "returned 3,000,002 characters of JSON; 1,048,576 are kept" in run(launches.give, 3_000_000).reason
    assert len(json.loads(run(launches.give, 1_000_000).result or "")) == 1_000_000


def test_a_task_that_nobody_knows_is_said(run: Runner) -> None:
    class Unknown:
        name = "tests.unknown"
        bind_arguments = staticmethod(launches.nothing.bind_arguments)

    assert "This deployment has no task called tests.unknown" in run(Unknown).reason


def test_of_much_output_the_beginning_and_the_end_are_kept(run: Runner) -> None:
    report = run(launches.chatter, 5_000_000)

    assert report.status == "succeeded"
    assert report.stdout.startswith("beginxxx")
    assert report.stdout.endswith("xxxend")
    assert "bytes left out …" in report.stdout
    assert 65_000 < len(report.stdout) < 66_000


# --- How it ends by itself --------------------------------------------------------------------------------------------


def test_a_crash_is_told_with_its_signal_and_where_it_happened(run: Runner) -> None:
    report = run(launches.segfault)

    assert (report.status, report.exit_code) == ("failed", -11)
    assert report.reason.startswith("killed by signal 11, SIGSEGV")
    assert "in segfault" in report.stderr


@pytest.mark.parametrize(
    ("code", "politely", "status", "expected"),
    [
        (3, True, "failed", "exited with code 3 after N s"),
        (0, True, "succeeded", "returned after N s"),
        (3, False, "failed", "exited with code 3 after N s, without returning"),
        (0, False, "failed", "exited with code 0 after N s, without returning"),
    ],
)
def test_an_exit_is_told_with_its_code(run: Runner, code: int, politely: bool, status: str, expected: str) -> None:
    report = run(launches.leave, code, kwargs={"politely": politely})

    assert (report.status, report.exit_code, reason(report)) == (status, code, expected)


def test_what_it_leaves_behind_goes_with_it_although_it_holds_the_pipes(run: Runner) -> None:
    report = run(launches.leave_a_child_with_the_pipes)

    assert (report.status, json.loads(report.result or "")) == ("succeeded", "gone")
    assert seconds(report) < MAX_LATE_SECONDS


def test_a_launch_that_returns_takes_all_its_daemons_with_it(run: Runner) -> None:
    report = run(launches.bomb, 20, True, timeout=20)

    assert report.status == "succeeded"


# --- Deadlines --------------------------------------------------------------------------------------------------------


def test_what_it_printed_before_its_deadline_is_kept(run: Runner) -> None:
    report = run(launches.say_and_hang, "half-way")

    assert (report.status, report.stdout, report.stderr) == ("timed_out", "half-way\n", "HALF-WAY\n")
    assert report.reason == "ended at its deadline of 1 s: it ended at TERM"
    assert json.loads(report.result or "")["exc_type"] == "TimeLimitExceeded"
    assert 1 <= seconds(report) < 1 + MAX_LATE_SECONDS


@pytest.mark.parametrize(("task", "grace"), [(launches.busy_in_c, 0.1), (launches.stubborn, 0.3)], ids=["c", "term"])
def test_a_loop_in_c_and_an_ignored_term_do_not_help_against_kill(run: Runner, task: Any, grace: float) -> None:
    report = run(task)

    assert (report.status, report.exit_code) == ("timed_out", -9)
    assert report.reason == "ended at its deadline of 1 s: it ignored TERM and was killed"
    assert 1 + grace <= seconds(report) < 1 + grace + MAX_LATE_SECONDS


def test_it_may_tidy_up_at_term(run: Runner, tmp_path: Path) -> None:
    report = run(launches.tidy_up, str(tmp_path / "file"))

    assert report.status == "timed_out"
    assert report.reason == "ended at its deadline of 1 s: it ended at TERM"
    assert (tmp_path / "file").read_text() == "tidy"
    assert seconds(report) < 1 + MAX_LATE_SECONDS  # it does not use up its grace of five seconds


def test_fifty_grandchildren_in_sessions_of_their_own_die_at_the_deadline(run: Runner) -> None:
    timeout = 5  # so that all are there before it is over
    run.begin(launches.bomb, 50, timeout=timeout)
    wait_for(lambda: len(run.left()) > 50, "all are there")
    (report,) = run.reports(1)

    assert report.status == "timed_out"
    assert timeout <= seconds(report) < timeout + MAX_LATE_SECONDS
    assert run.left() == []


def test_a_daemon_that_throws_away_its_label_is_ended_with_its_launch_at_the_latest(
    run: Runner, tmp_path: Path
) -> None:
    """At once, unless the fork server has seen it while it was still a descendant: then it is known whose it is."""
    go_on = tmp_path / "go_on"
    run.begin(launches.escape, ESCAPED_SECONDS, str(go_on))
    wait_for((tmp_path / "go_on.escaped").exists, "it has begun")
    go_on.touch()

    assert [report.status for report in run.reports(1)] == ["succeeded"]
    wait_for(lambda: not has_escaped(), "it is ended")


def test_in_a_group_nothing_hides(run_in_group: Runner, tmp_path: Path) -> None:
    run, go_on = run_in_group, tmp_path / "go_on"
    run.begin(launches.escape, ESCAPED_SECONDS, str(go_on))
    wait_for((tmp_path / "go_on.escaped").exists, "it has begun")
    go_on.touch()
    assert [report.status for report in run.reports(1)] == ["succeeded"]
    assert not has_escaped()

    run.begin(launches.bomb, 50, timeout=5)
    wait_for(lambda: len(run.left()) > 50, "all are there")
    assert [report.status for report in run.reports(1)] == ["timed_out"]
    assert run.left() == []


@pytest.mark.parametrize("cgroups", ["no", "yes"])
def test_when_the_fork_server_is_killed_what_hides_ends_with_it(cgroups: str, tmp_path: Path) -> None:
    for client in started(cgroups=cgroups):
        run, go_on = Runner(client), tmp_path / "go_on"
        run.begin(launches.escape, ESCAPED_SECONDS, str(go_on))
        wait_for((tmp_path / "go_on.escaped").exists, "it has begun")
        os.kill(client.pid, signal.SIGKILL)
    assert not has_escaped()


@pytest.mark.parametrize("how", ["run", "run_in_group"])
def test_a_launch_that_starts_too_many_processes_is_ended(how: str, request: pytest.FixtureRequest) -> None:
    run: Runner = request.getfixturevalue(how)
    run.begin(launches.crowd, MAX_LAUNCH_PROCESSES + 50, timeout=LONG_SECONDS)
    (report,) = run.reports(1, LONG_SECONDS)  # starting so many takes a while on a busy machine, and ending them, too
    wait_for(lambda: run.left() == [], "all of them have been killed")

    assert report.status == "failed"
    assert "processes, and may have 512" in report.reason or "Resource temporarily unavailable" in report.reason


def test_a_fork_server_that_was_stopped_goes_on(run: Runner) -> None:
    run.begin(launches.hang)
    os.kill(run.fork_server.pid, signal.SIGSTOP)
    stopped = procfs.process_stat
    wait_for(lambda: (stat := stopped(run.fork_server.pid)) and stat.is_stopped, "it is stopped")
    run.fork_server.wake_if_stopped()

    assert [report.status for report in run.reports(1)] == ["timed_out"]


def test_what_a_task_writes_where_its_outcome_goes_does_no_harm(run: Runner) -> None:
    report = run(launches.scribble)

    assert (report.status, json.loads(report.result or "")) == ("succeeded", "the real one")


def test_a_process_that_is_just_becoming_another_program_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its environment is empty for a moment, as that of this one is for ever."""
    monkeypatch.setattr(ForkServer, "_wake_on_signals", lambda self: None)
    signalled: list[procfs.ProcessIdentity] = []
    monkeypatch.setattr(procfs, "signal_process", lambda number, process: signalled.append(process))
    ours, theirs = socket.socketpair()
    context = ServerContext(os.getpid(), (0, 0), 0, "fork_server", None)
    with ours, theirs, subprocess.Popen(["sleep", "60"], env={}) as without_environment:
        fork_server = ForkServer(Channel(ours), context, LaunchGroups("fork_server"))
        fork_server.groups.remove()
        try:
            started = time.monotonic()
            fork_server._assign_orphan(without_environment.pid, {})
            assert not signalled

            def is_ended() -> bool:
                fork_server._assign_orphan(without_environment.pid, {})
                return bool(signalled)

            wait_for(is_ended, "it is ended after a while")
            assert time.monotonic() - started >= EXEC_SECONDS
            assert {process.pid for process in signalled} == {without_environment.pid}
        finally:
            fork_server.selector.close()
            without_environment.kill()


def test_a_launch_is_not_over_while_what_it_started_may_be_becoming_another_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such an orphan is not known yet; nothing of a launch is left when its outcome is reported."""
    monkeypatch.setattr(ForkServer, "_wake_on_signals", lambda self: None)
    ours, theirs = socket.socketpair()
    order = LaunchOrder(1, "task-1", "tests.launches.nothing", "[[],{}]", 5.0, 0.1, 64)
    with ours, theirs:
        fork_server = ForkServer(
            Channel(ours), ServerContext(os.getpid(), (0, 0), 0, "fork_server", None), LaunchGroups("fork_server")
        )
        fork_server.groups.remove()
        fork_server.selector.close()
        tree = ProcessTree(order, 999_999_999, (-1, -1, -1), 1024, b"mark", None)
        tree.note_exit(0, now := time.monotonic())

        assert fork_server._is_gone(tree, now)
        fork_server.has_unknown_orphans = True
        assert not fork_server._is_gone(tree, now)
        assert fork_server._is_gone(tree, now + 2 * EXEC_SECONDS)


def test_many_that_hang_are_all_dead_on_time(run: Runner) -> None:
    for number in range(60):
        run.begin(launches.stubborn if number % 2 else launches.hang, grace=0.1)
    reports = run.reports(60)

    assert {report.status for report in reports} == {"timed_out"}
    assert max(map(seconds, reports)) < 1 + MAX_LATE_SECONDS


def test_a_launch_without_a_deadline_runs_to_its_end(run: Runner) -> None:
    assert run(launches.nothing, 1, timeout=float("inf")).status == "succeeded"


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_one_that_asks_for_too_much_at_once_does_not_get_it(run: Runner) -> None:
    report = run(launches.hog)

    assert (report.status, json.loads(report.result or "")["exc_type"]) == ("out_of_memory", "MemoryError")
    assert "it had reached its memory limit" in report.reason


def test_several_that_together_use_too_much_are_killed_while_they_run(run: Runner) -> None:
    report = run(launches.hogs, 40)

    assert (report.status, report.exit_code) == ("out_of_memory", -9)
    assert "MiB, and may use 100" in report.reason


def test_memory_that_is_shared_with_the_fork_server_does_not_count(run: Runner) -> None:
    report = run(launches.hogs, 1, timeout=1)

    assert report.status == "timed_out"


# --- From outside -----------------------------------------------------------------------------------------------------


def test_one_is_cancelled_and_the_others_go_on(run: Runner, tmp_path: Path) -> None:
    go_on = tmp_path / "go_on"
    first, second = run.begin(launches.hang, timeout=LONG_SECONDS), run.begin(launches.wait_for_file, str(go_on))
    wait_for(lambda: len(run.left()) == 2, "both have begun")
    run.fork_server.channel.send("cancelled", [first])
    (one,) = run.reports(1)
    go_on.touch()
    (other,) = run.reports(1)

    assert (one.id, one.status) == (first, "cancelled")
    assert (other.id, other.status) == (second, "succeeded")


def test_one_that_cannot_be_started_says_why(run: Runner) -> None:
    before = resource.prlimit(run.fork_server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(run.fork_server.pid, resource.RLIMIT_NOFILE, (8, before[1]))
    try:
        report = run(launches.nothing)
    finally:
        resource.prlimit(run.fork_server.pid, resource.RLIMIT_NOFILE, before)

    assert (report.status, report.pid) == ("failed", None)
    assert report.reason.startswith("could not be started: Too many open files. Lower HANDBELL_LAUNCH_CONCURRENCY")
    assert run(launches.nothing).status == "succeeded"


def test_nothing_is_left_when_the_fork_server_is_killed() -> None:
    fork_server = ForkClient()
    fork_server.wait_until_ready()
    run = Runner(fork_server)
    try:
        run.begin(launches.bomb, 10, timeout=LONG_SECONDS)
        wait_for(lambda: len(run.left()) > 10, "all are there")
        os.kill(fork_server.pid, signal.SIGKILL)
        said: list[str] = []

        def is_dead() -> bool:
            fork_server.wait(1)  # this may only be what it said before it was killed
            said.extend(kind for kind, _ in fork_server.messages())
            return not fork_server.is_alive

        wait_for(is_dead, "its death is noticed")
        assert set(said) <= {"started"}, "nothing has ended by itself"
    finally:
        fork_server.close()
    assert run.left() == []


def test_the_fork_server_ends_everything_and_itself_when_the_supervisor_ends() -> None:
    fork_server = ForkClient()
    fork_server.wait_until_ready()
    run = Runner(fork_server)
    try:
        run.begin(launches.bomb, 10, timeout=LONG_SECONDS)
        wait_for(lambda: len(run.left()) > 10, "all are there")
        fork_server.channel.socket.shutdown(2)
        wait_for(lambda: fork_server.process.poll() is not None, "the fork_server has ended")
        assert run.left() == []
    finally:
        fork_server.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fork_server_that_still_loads_ends_with_the_supervisor(when: str, tmp_path: Path) -> None:
    (tmp_path / "loads_slowly.py").write_text(
        f"import time, pathlib; pathlib.Path({str(tmp_path / 'begun')!r}).touch(); time.sleep(60)"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{Path.cwd()}",
        LABEL_VARIABLE: ProcessLabel("slow", None).text(),
    }
    our_end, its_end = socket.socketpair()
    command = [sys.executable, "-c", PROGRAM, str(its_end.fileno()), "loads_slowly"]
    with its_end, subprocess.Popen(command, env=environment, pass_fds=[its_end.fileno()]) as program:
        its_end.close()
        if when == "after":
            wait_for((tmp_path / "begun").exists, "it loads")
        our_end.close()
        program.wait(30)


#: A supervisor that is killed as soon as it has started its fork server.
KILLED_AT_ONCE = """
import django, os; django.setup()
from handbell.isolated.fork_client import ForkClient
os.environ["DJANGO_SETTINGS_MODULE"] = "settings_that_take_long"
print(ForkClient().pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_fork_server_whose_supervisor_is_killed_at_once_ends(tmp_path: Path) -> None:
    """Before its own code is there to look."""
    (tmp_path / "settings_that_take_long.py").write_text("import time; time.sleep(600)")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    command = [sys.executable, "-c", KILLED_AT_ONCE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def is_gone() -> bool:
        stat = procfs.process_stat(int(done.stdout))
        return stat is None or stat.is_zombie

    wait_for(is_gone, "it is gone")
