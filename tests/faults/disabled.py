"""A mechanism of the engine that is turned off, to see that the suite notices: HANDBELL_TEST_DISABLE names it.

Every process of a system under test loads this. It changes the engine in the memory of that process and nowhere else;
whatever it changes must be there, so that a mechanism that has moved is not taken for one that makes no difference.
"""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from django.db import transaction

VARIABLE = "HANDBELL_TEST_DISABLE"


@dataclass(frozen=True)
class Mechanism:
    """What is turned off, in words; how; and the faults that it is there for, on one system."""

    sentence: str
    turn_off: Callable[[], None]
    faults: tuple[str, ...]
    system: str = "postgres-valkey"


MECHANISMS: dict[str, Mechanism] = {}


def mechanism(sentence: str, *faults: str, system: str = "postgres-valkey") -> Any:
    def register(turn_off: Callable[[], None]) -> Callable[[], None]:
        MECHANISMS[turn_off.__name__.replace("_", "-")] = Mechanism(sentence, turn_off, faults, system)
        return turn_off

    return register


def replace(path: str, value: Any) -> None:
    """Set what `path` (module:name or module:Class.name) leads to, and wherever it has been imported by that name."""
    module_name, _, name = path.partition(":")
    __import__(module_name)
    owner: Any = sys.modules[module_name]
    *classes, name = name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    former = getattr(owner, name)  # an error here: it is not there any more
    setattr(owner, name, value)
    for module in list(sys.modules.values()):
        if not classes and module.__name__.startswith("handbell") and vars(module).get(name) is former:
            setattr(module, name, value)


def nothing(*args: Any, **kwargs: Any) -> None:
    """Takes the place of what is turned off."""


@mechanism(
    "a claim has a token of its own, and whoever writes under another is refused", "freeze-worker", "freeze-far-worker"
)
def claim_token() -> None:
    from handbell.models import Chunk  # noqa: PLC0415

    replace("handbell.common.claims:new_claim_token", lambda: 1)
    replace("handbell.parallel.claim:ChunkClaim.row", lambda self: Chunk.objects.filter(pk=self.chunk.pk))


@mechanism("a claim that outlives its work is given back", "promote-replica", "crash-forgetful-database")
def forgotten_claims() -> None:
    replace("handbell.celery.forgotten_claims:ForgottenClaims.release", nothing)
    replace("handbell.isolated.supervise:LaunchSupervisor._record_forgotten", nothing)


@mechanism("an owner that has been silent for its lease is taken for dead", "kill-far-worker")
def silence() -> None:
    replace("handbell.common.leases:SilenceWatch.silent", lambda self, seconds: set())


@mechanism("claims of what may begin only once wait for the disk", "crash-forgetful-database")
def waiting_for_the_disk() -> None:
    replace("handbell.common.databases:durable_transaction", nullcontext)


@mechanism("what may begin only once is lost with its process, and not run again", "kill-pool-child", "kill-worker")
def at_most_once() -> None:
    from tests.faults import workload  # noqa: PLC0415

    workload.begin_once.max_crashes = 3
    replace("handbell.plain.crash_recovery:may_begin_twice", lambda task: True)


@mechanism("a launch is claimed before it is started", "crash-broker")
def launch_claims() -> None:
    from handbell.isolated.sql import claim_launches  # noqa: PLC0415

    def look_only(*args: Any) -> Any:
        with transaction.atomic():
            found = claim_launches(*args)
            transaction.set_rollback(True)
        return found

    replace("handbell.isolated.sql:claim_launches", look_only)


@mechanism("launches of a dead supervisor are lost, and not started again", "kill-supervisor", "kill-fork-server")
def lost_launches() -> None:
    from handbell.models import Launch  # noqa: PLC0415

    def requeue(owner: str) -> None:
        claimed = Launch.objects.filter(claimed_by=owner, status="running")
        claimed.update(status="queued", claimed_by="", claim_token=None)

    replace("handbell.isolated.lost:record_lost_launches", requeue)


@mechanism(
    "a doorbell that is not answered is rung again, and a message that got lost is sent again",
    "drop-messages",
    "wipe-broker",
)
def ringing_again() -> None:
    replace("handbell.common.doorbell:DoorbellMessage.ring_again", nothing)
    replace("handbell.parallel.sweep:_ring_again", nothing)
    replace("handbell.plain.sweep:resend_lost_messages", nothing)


@mechanism("a sweeper looks after what was left behind", "kill-worker", "drop-messages")
def sweeper() -> None:
    replace("handbell.sweeper:Sweeper.sweep", nothing)


@mechanism("one drain at a time has the lane", "double-messages", "kill-worker")
def lane_lock() -> None:
    from handbell.serial.sql import LaneLock  # noqa: PLC0415

    def look_only(lane: int, *, wait: bool = False) -> LaneLock:
        return LaneLock.OPEN

    replace("handbell.serial.sql:lock_lane", look_only)


@mechanism(
    "what a worker must write after a process of its pool has died waits until it can be written", "call-what-hangs"
)
def write_backlog() -> None:
    replace("handbell.common.write_backlog:WriteBacklog.add", lambda self, write: True)


@mechanism("of several beats one claims a tick", "kill-beat")
def tick_claims() -> None:
    replace("handbell.celery.scheduler:PeriodicEntry.claim_tick", lambda self, now: True)


if name := os.environ.get(VARIABLE):
    MECHANISMS[name].turn_off()
