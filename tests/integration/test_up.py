"""`manage.py handbell up`: one command runs everything, says what happens to it, and leaves nothing behind."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
from celery import current_app
from django.contrib.auth.models import User

from tasks_app.tasks import call_stuck_partner, increment_value
from tests.servers import wait_for
from tests.system import MANAGE, Running, System, left_running

PARTS = {
    "broker": "handbell.embedded.server",
    "serial": "--hostname=serial@",
    "high": "--hostname=high@",
    "cpu": "--hostname=cpu@",
    "io": "--hostname=io@",
    "isolated": "--hostname=isolated@",
    "beat": "celery --quiet beat",
    "flower": "celery --quiet flower",
    "web": "handbell.management.web_server",
}


# --- What runs inside the system ------------------------------------------------------------------------------------


def is_superuser(password: str) -> bool:
    user = User.objects.get(username="admin")
    return user.check_password(password) and user.is_superuser


def launch_something_stuck() -> None:
    call_stuck_partner.delay(1)


def increment_and_wait() -> int:
    return increment_value.delay("after").get(timeout=30)


def queues_of_workers() -> dict[str, list[str]]:
    found = current_app.control.inspect(timeout=3).active_queues() or {}
    return {name.partition("@")[0]: sorted(queue["name"] for queue in queues) for name, queues in found.items()}


# --- Tests ----------------------------------------------------------------------------------------------------------


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.core
def test_up_runs_one_process_per_part_and_says_where(sqlite_system: System) -> None:
    with sqlite_system.up() as up:
        for words in PARTS.values():
            assert up.child(words).is_running()
        said, state = up.output(), up.state()
        for part in PARTS:
            assert f"\n{part} " in said
        assert state["web"] in said
        assert state["flower"] in said
        assert status(state["web"] + "/login/") == 200
        assert status(state["flower"] + "/") == 401  # basic authentication
        assert [line for line in said.splitlines() if re.search(r"Warning\b|privileges", line)] == []
        flower = psutil.Process(up.child(PARTS["flower"]).pid)
        assert {c.laddr.ip for c in flower.net_connections() if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_first_up_creates_an_admin_and_prints_the_password_once(sqlite_system: System) -> None:
    with sqlite_system.up("--no-workers", "--no-beat", "--no-flower") as up:
        assert up.output().count("Sign in as admin with password") == 1
        password = up.output().partition("with password ")[2].split()[0]
        assert sqlite_system.call(is_superuser, password) is True
    with sqlite_system.up("--no-workers", "--no-beat", "--no-flower") as up:
        assert "Sign in as" not in up.output()


def test_stopping_ends_also_what_is_stuck_and_leaves_no_process(system: System) -> None:
    with system.up() as up:
        members = up.descendants()
        assert len(members) > 10
        system.call(launch_something_stuck)
        up.popen.send_signal(signal.SIGINT)
        assert up.popen.wait(60) == 0
        assert "Everything has stopped." in up.output()
        wait_for(lambda: not any(alive(member) for member in members), "all of them are gone", 1)
        assert left_running(system.folder) == []


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("part", PARTS)
def test_kill_any_process_and_it_is_said_and_started_again(part: str, killable: Running) -> None:
    words = PARTS[part]
    victim = killable.child(words)
    before = killable.output().count(f"{part:<8} ended unexpectedly")
    victim.kill()
    wait_for(
        lambda: killable.output().count(f"{part:<8} ended unexpectedly (killed by signal 9, SIGKILL)") == before + 1,
        f"{part} is reported",
    )
    wait_for(lambda: [c for c in killable.process.children() if words in " ".join(c.cmdline())], f"{part} is back")
    assert killable.child(words).pid != victim.pid


def test_kill_the_valkey_server_and_work_goes_on(killable: Running) -> None:
    """Whichever process runs it: after that was killed, a process that needed the broker may have started another."""
    folder = killable.system.folder / "broker"

    def servers() -> list[psutil.Process]:
        everybody = psutil.process_iter(["name", "cmdline"])
        named = [process for process in everybody if "valkey-server" in process.info["name"]]
        return [process for process in named if str(folder) in " ".join(process.info["cmdline"] or ())]

    def said() -> int:
        logged = (folder / "log").read_text() if (folder / "log").exists() else ""
        return (killable.output() + logged).count("The broker ended unexpectedly (killed by signal 9, SIGKILL)")

    wait_for(servers, "the server runs, also after the process that ran it was killed")
    before = said()
    servers()[0].kill()
    wait_for(lambda: said() > before, "it is said")
    assert killable.system.call(increment_and_wait) == 1


def test_kill_a_process_of_a_pool_and_it_is_said_and_replaced(killable: Running) -> None:
    part, said = "cpu", "signal 9 (SIGKILL)"

    def pool() -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess, AssertionError):  # a test before may have killed the part itself
            return killable.child(PARTS[part]).children()
        return []

    wait_for(pool, "it has processes, also after it was killed itself")
    victim, before = pool()[0], killable.output().count(said)
    victim.kill()
    wait_for(lambda: killable.output().count(said) > before, f"the death of a process of {part} is reported")
    wait_for(lambda: any(child.pid != victim.pid for child in pool()), f"{part} has a new one")


@pytest.fixture(scope="module")
def killable(make_system: Callable[[str], System]) -> Iterator[Running]:
    """One running system for all tests that kill a part of it."""
    with make_system("sqlite-valkey").up() as up:
        yield up


def test_kill_up_itself_and_nothing_stays(sqlite_system: System) -> None:
    with sqlite_system.up() as up:
        os.kill(up.process.pid, signal.SIGKILL)
        up.popen.wait()
        wait_for(lambda: not left_running(sqlite_system.folder), "nothing is left", 15)


def test_a_second_up_says_that_one_is_running(sqlite_system: System) -> None:
    with sqlite_system.up("--no-workers", "--no-beat", "--no-flower") as up:
        second = sqlite_system.manage("handbell", "up", "--port=0")
        assert second.returncode == 1
        assert f"already running at {up.state()['web']} (process {up.process.pid})" in second.stderr
        assert up.alive()


def test_a_second_up_in_another_container_with_the_same_folder_is_refused(sqlite_system: System) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]  # a pid namespace of its own, as a container has
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("unshare may not be used here")
    with sqlite_system.up("--no-workers", "--no-beat", "--no-flower") as up:
        second = subprocess.run(
            [*unshare, *MANAGE, "handbell", "up", "--port=0"],
            env=sqlite_system.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 1
        where = (
            f"{up.state()['web']} in another container or on another machine, {socket.gethostname()}, with this folder"
        )
        assert f"The system is already running at {where}. Stop it there, or set HANDBELL_DATA_DIR" in second.stderr
        assert up.alive()


def test_other_users_of_the_machine_cannot_read_what_up_writes(sqlite_system: System) -> None:
    sqlite_system.folder.chmod(0o755)
    with sqlite_system.up("--no-workers", "--no-beat") as up:
        assert up.alive()
        private = ["db.sqlite3", "secret_key", "flower_password"]
        modes = {name: stat.S_IMODE((sqlite_system.folder / name).stat().st_mode) for name in private}
    assert modes == dict.fromkeys(private, 0o600)
    assert stat.S_IMODE(sqlite_system.folder.stat().st_mode) == 0o700


def test_named_workers_share_the_parallel_queues(system: System) -> None:
    with system.up("--workers=w1,w2", "--no-beat", "--no-flower", "--no-web") as up:
        assert up.state()["workers"] == 4
        queues = system.call(queues_of_workers)
    parallel = ["cpu", "high", "io"]
    assert queues == {"serial": ["serial"], "isolated": ["isolated"], "w1": parallel, "w2": parallel}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers=w1,w1"], "give different names"),
        (["--workers=w 1"], "give different names"),
        (["--port=99999999"], "Choose another with --port"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(sqlite_system: System, options: list[str], sentence: str) -> None:
    refused = sqlite_system.manage("handbell", "up", *options)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("variable", "address"),
    [("CELERY_BROKER_URL", "amqp://127.0.0.1:1//"), ("DATABASE_URL", "postgres://a:b@127.0.0.1:1/c")],
)
def test_a_broker_or_database_that_is_down_is_named(sqlite_system: System, variable: str, address: str) -> None:
    sqlite_system.environment.update({variable: address, "SECRET_KEY": "x" * 60})
    refused = sqlite_system.manage("handbell", "up", "--port=0")
    assert refused.returncode == 1
    assert variable in refused.stderr
    assert "Traceback" not in refused.stderr


def test_status_says_what_runs_and_what_is_wrong(sqlite_system: System) -> None:
    def ask() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(sqlite_system.manage("handbell", "status", "--json").stdout)
        return found

    stopped = ask()
    assert (stopped["up"], stopped["broker"]["answers"], stopped["workers"]) == (None, False, [])
    assert left_running(sqlite_system.folder) == []  # to ask for the broker has not started it
    with sqlite_system.up("--no-beat", "--no-flower", "--no-web") as up:
        status = ask()
        assert status["up"]["pid"] == up.process.pid
        assert (status["broker"]["answers"], status["problems"]) == (True, [])
        taken = [worker["queues"] for worker in status["workers"]]
        assert taken == [["cpu"], ["high"], ["io"], ["isolated"], ["serial"]]
        worker = up.child("--hostname=io@")
        worker.suspend()
        try:
            checked = sqlite_system.manage("handbell", "status", "--check")
        finally:
            worker.resume()
        assert checked.returncode == 1
        assert "Problem: No worker takes the queue io. `manage.py celery worker -Q io` is one." in checked.stdout


def test_up_ends_with_the_process_that_started_it(sqlite_system: System) -> None:
    with sqlite_system.process("demo", "--only=visits") as demo:
        wait_for(lambda: "Visit: started" in demo.output(), "the system is started", 60)
        os.kill(demo.process.pid, signal.SIGKILL)
        demo.popen.wait()
        wait_for(lambda: not left_running(sqlite_system.folder), "nothing is left", 20)
