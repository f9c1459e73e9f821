"""Who is alive, as others see it: no clock but the observer's own counts, and none of its own pauses."""

import os
import subprocess
from collections.abc import Callable

import pytest

from handbell.common import process_id as process_ids
from handbell.common.leases import MAX_GAP_SECONDS, SilenceWatch
from handbell.common.process_id import is_dead, is_on_this_machine, machine_id, process_id


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def look(clock: Clock) -> Callable[..., set[str]]:
    """Looks at the counters a second later; who has been silent for more than five seconds."""
    watch: SilenceWatch[str] = SilenceWatch(clock)

    def look(passed: float = 1.0, **counters: int) -> set[str]:
        clock.seconds += passed
        watch.look(counters)
        return watch.silent(5)

    return look


def test_whoever_changes_its_counter_is_alive_and_whoever_does_not_is_silent(look: Callable[..., set[str]]) -> None:
    for beat in range(7):
        found = look(alive=beat, dead=3)
    assert found == {"dead"}
    assert look(alive=6, dead=4) == set()


def test_a_counter_that_goes_back_is_a_sign_of_life(look: Callable[..., set[str]]) -> None:
    """A database that has lost its last commits shows an older one."""
    for beat in (5, 5, 5, 5, 4, 4, 4, 4):
        assert look(it=beat) == set()


def test_time_in_which_the_observer_could_not_look_does_not_count(look: Callable[..., set[str]]) -> None:
    look(it=1)
    assert look(passed=3600, it=1) == set()
    assert look(passed=3600, it=1) == set()
    assert look(passed=3600, it=1) == {"it"}
    assert 2 * MAX_GAP_SECONDS < 5 < 3 * MAX_GAP_SECONDS


def test_one_that_comes_back_is_counted_anew(look: Callable[..., set[str]]) -> None:
    for _ in range(6):
        look(it=1)
    look()
    assert look(it=1) == set()


# --- Processes of this machine ----------------------------------------------------------------------------------------


def test_a_process_of_this_machine_is_dead_when_it_is_gone_or_only_waits_to_be_reaped() -> None:
    assert not is_dead(process_id())
    process = subprocess.Popen(["sleep", "60"])
    start = process_ids._start_of(process.pid)
    owner = f"{machine_id()} {process.pid} {start}"
    assert not is_dead(owner)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(owner)
    process.wait()
    assert is_dead(owner)


def test_another_process_with_the_same_number_is_another_one() -> None:
    assert is_dead(f"{machine_id()} {os.getpid()} 1")


def test_nothing_is_said_of_processes_elsewhere() -> None:
    """Another machine, the same one before it was started again, another container."""
    machine, _, namespace = machine_id().partition("/")
    for place in ("elsewhere", f"another-boot/{namespace}", f"{machine}/pid:[1]", machine_id()[:-1]):
        owner = f"{place} {os.getpid()} 1"
        assert not is_on_this_machine(owner)
        assert not is_dead(owner)


def test_a_process_that_cannot_be_seen_but_exists_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_ids, "process_stat", lambda pid: None)

    assert not is_dead(f"{machine_id()} {os.getpid()} 1")
