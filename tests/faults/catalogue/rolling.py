"""Processes that are told to stop, and are started again, while work goes on."""

import signal
import time

from tests.faults.faulting import fault
from tests.faults.ground import Ground
from tests.servers import wait_for


@fault("The workers are restarted, one after the other.", quick=True)
def restart_workers_in_turn(ground: Ground) -> None:
    for member in ground.workers():
        ground.restart(member)
        ground.fleet.wait_until_ready([member.name])


@fault("All workers are restarted at once.")
def restart_all_workers(ground: Ground) -> None:
    members = ground.workers()
    for member in members:
        ground.record_hurt(member.process, *member.process.children(recursive=True))
        member.process.send_signal(signal.SIGTERM)
    wait_for(lambda: all(not member.is_ready or member.starts > 1 for member in members), "they stop", 30)
    time.sleep(2)
    ground.fleet.wait_until_ready([member.name for member in members])


@fault("A migration adds a column to every table, and half of the workers are restarted.", quick=True)
def migrate(ground: Ground) -> None:
    ground.ask("observe.add_columns()")
    for member in ground.workers()[::2]:
        ground.restart(member)
        ground.fleet.wait_until_ready([member.name])


@fault("A third beat is started, and one is stopped.")
def change_beats(ground: Ground) -> None:
    first, second = ground.fleet.named("beat")
    for member in (first, second):
        ground.fleet.restart(member)
        ground.fleet.wait_until_ready([member.name])


@fault("The web server is told to stop, and starts again.")
def restart_web(ground: Ground) -> None:
    ground.fleet.restart(ground.fleet["web"])
    wait_for(ground.web_answers, "the web server answers")
