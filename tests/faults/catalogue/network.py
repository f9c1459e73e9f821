"""Networks between the system and its servers: slow, cut at random, half open, cut before the answer."""

import time

from tests.faults.faulting import Skipped, fault
from tests.faults.ground import Ground
from tests.faults.proxy import Mode

BAD_SECONDS = 10.0


def disturb(ground: Ground, which: str, mode: Mode, seconds: float = BAD_SECONDS) -> None:
    """Have the proxy in front of the `broker` or the `database` be bad for a while."""
    proxy = ground.proxies.get(which)
    if proxy is None:
        raise Skipped(f"the system reaches its {which} by a file, and no network")
    proxy.set(mode)
    try:
        time.sleep(seconds)
    finally:
        proxy.set("pass")


@fault("The network to the database is slow.", on="postgres", may_begin_again=True)
def slow_database(ground: Ground) -> None:
    disturb(ground, "database", "delay")


@fault("Connections to the database are reset at random.", on="postgres")
def reset_database(ground: Ground) -> None:
    disturb(ground, "database", "drop")


@fault("Connections to the database are half open.", on="postgres", may_begin_again=True)
def half_open_database(ground: Ground) -> None:
    disturb(ground, "database", "half-open")


@fault("Connections to the database are cut after the request, and before the answer.", on="postgres", quick=True)
def split_database(ground: Ground) -> None:
    for _ in range(6):
        disturb(ground, "database", "split", 0.5)
        time.sleep(1)


@fault("The network to the broker is slow.")
def slow_broker(ground: Ground) -> None:
    disturb(ground, "broker", "delay")


@fault("Connections to the broker are reset at random.")
def reset_broker(ground: Ground) -> None:
    disturb(ground, "broker", "drop")


@fault("Connections to the broker are half open.")
def half_open_broker(ground: Ground) -> None:
    disturb(ground, "broker", "half-open")


@fault("Connections to the broker are cut after the request, and before the answer.")
def split_broker(ground: Ground) -> None:
    for _ in range(6):
        disturb(ground, "broker", "split", 0.5)
        time.sleep(1)
