"""The main job, on real input, in each column."""

import json

import pytest

from tests.system import System

WORKLOADS = ["serial", "fibonacci", "identifiers", "words", "jobs", "visits", "launches", "periodic"]


@pytest.mark.timeout(900)  # it has much to do, and on a busy machine that takes a while
def test_demo_runs_every_workload_and_all_outcomes_are_right(system: System) -> None:
    done = system.manage("demo", "--json", "--timeout=600", timeout=800)

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["ok"] is True
    assert [row["name"] for row in report["workloads"]] == WORKLOADS
    for row in report["workloads"]:
        assert set(row) == {"name", "tasks", "seconds", "rate", "ok"}
        assert row["ok"]
        assert row["tasks"] > 0
    assert report["workloads"][0]["tasks"] == 4002  # 10 threads of 200 increments, and one read, both ways
    assert "2,000 and 2,000 of 2,000 increments counted, then read as 2,000 and 2,000" in " ".join(done.stderr.split())
    assert "by w1@, w2@" in " ".join(done.stderr.split())


def test_a_wrong_outcome_is_said_and_makes_demo_fail(sqlite_system: System) -> None:
    with sqlite_system.up("--no-workers", "--no-beat", "--no-flower"):
        done = sqlite_system.manage("demo", "--json", "--only=fibonacci", "--timeout=1")

    assert done.returncode == 1
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["ok"] is False
    assert report["workloads"][0]["ok"] is False
    assert "only 0 of 1,000 tasks finished in 1 s" in " ".join(done.stderr.split())


def test_demo_writes_a_profile_and_refuses_unknown_workloads(sqlite_system: System) -> None:
    profile = sqlite_system.folder.parent / "demo.prof"
    with sqlite_system.up("--no-beat", "--no-flower"):
        done = sqlite_system.manage("demo", "--only=visits", f"--profile={profile}")
    assert done.returncode == 0, done.stderr
    assert profile.stat().st_size > 1000

    refused = sqlite_system.manage("demo", "--only=nonsense")
    assert refused.returncode == 1
    assert "There is no workload called nonsense" in refused.stderr
