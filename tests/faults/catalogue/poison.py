"""Calls that do harm to whoever runs them; see `poisonous`."""

from contextlib import suppress

import psutil

from tests.faults.faulting import fault
from tests.faults.ground import Ground
from tests.servers import wait_for


@fault("Tasks of every kind crash the process that runs them.", quick=True)
def call_what_crashes(ground: Ground) -> None:
    ground.ask("poisonous.crash()")


@fault("Tasks hang in C, and give nobody else a turn.")
def call_what_hangs(ground: Ground) -> None:
    ground.ask("poisonous.hang_in_c()")


@fault("Tasks want more memory than there is.")
def call_what_wants_memory(ground: Ground) -> None:
    ground.ask("poisonous.want_memory()")


@fault("A task floods the log.")
def call_what_floods_the_log(ground: Ground) -> None:
    ground.ask("poisonous.flood()")


@fault("Arguments and results are very large.")
def call_with_much(ground: Ground) -> None:
    ground.ask("poisonous.be_large()")


@fault("Launches fork without end, and leave daemons behind.")
def call_what_forks(ground: Ground) -> None:
    ground.ask("poisonous.fork()")
    wait_for(lambda: not daemons(ground), "their daemons are gone", 20)


def daemons(ground: Ground) -> list[int]:
    """What launches have left: processes called like those that they start."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        with suppress(psutil.Error):
            if process.info["cmdline"] == ["sleep", "600.125"] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
