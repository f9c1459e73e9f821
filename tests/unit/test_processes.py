"""How a child process ended, in words."""

import signal
import subprocess
import sys

import pytest

from handbell.common.child_process import describe_exit


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-9, "killed by signal 9, SIGKILL"),
        (-15, "killed by signal 15, SIGTERM"),
        (-40, "killed by signal 40"),
    ],
)
def test_an_end_is_said_in_words_whatever_the_signal(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_the_code_of_a_process_that_was_really_killed_is_understood() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        process.send_signal(signal.SIGKILL)

    assert describe_exit(process.returncode) == "killed by signal 9, SIGKILL"
