"""One thread of a process calls whatever is to be called while some work is in progress."""

import threading
import time

import pytest
from django.db import OperationalError

from handbell.common.heartbeat import heartbeat
from tests.servers import wait_for


def test_each_is_called_from_the_same_thread_as_often_as_it_says_and_no_more_once_its_block_has_ended() -> None:
    quick: list[threading.Thread] = []
    slow: list[threading.Thread] = []
    with heartbeat(0.01, lambda: quick.append(threading.current_thread())):
        with heartbeat(0.05, lambda: slow.append(threading.current_thread())):
            wait_for(lambda: len(slow) > 2, "the slow one is called")
        seen = len(slow)
        wait_for(lambda: len(quick) > 3 * seen, "the quick one is called more often")
    calls = len(quick)
    with heartbeat(0.01, lambda: slow.append(threading.current_thread())):
        wait_for(lambda: len(slow) > seen, "a later one is called")

    assert len(quick) == calls
    assert len({*quick, *slow}) == 1
    assert quick[0] is not threading.current_thread()


def test_a_block_ends_only_when_its_call_has_ended() -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def beat() -> None:
        began.set()
        assert may_end.wait(30)
        ended.set()

    def work() -> None:
        with heartbeat(0.01, beat):
            assert began.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(30)
    thread.join(0.2)
    assert thread.is_alive()
    may_end.set()
    thread.join(30)
    assert ended.is_set()


@pytest.mark.parametrize("error", [OperationalError("away"), ValueError("wrong"), SystemExit(1)])
def test_one_that_raises_is_called_again_and_keeps_no_other_from_being_called(error: BaseException) -> None:
    attempts: list[float] = []
    others: list[float] = []

    def fail() -> None:
        attempts.append(time.monotonic())
        raise error

    with heartbeat(0.01, fail), heartbeat(0.01, lambda: others.append(time.monotonic())):
        wait_for(lambda: len(attempts) > 2 and len(others) > 2, "both are called")
