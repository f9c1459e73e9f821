"""Wall clocks that are wrong, step, or run fast, for a part of the system: see `clock.c`.

The clock that histories are written by, and by which a process tells how long another one has been silent, is left
alone: it does not step on a real machine either.
"""

import shutil
import struct
import subprocess
import time
from pathlib import Path

from tests.faults.faulting import Skipped, fault
from tests.faults.fleet import Member
from tests.faults.ground import Ground

SOURCE = Path(__file__).resolve().parent.parent / "clock.c"
WRONG_SECONDS = 8.0
HOUR, MINUTE = 3600.0, 60.0


def with_clock(ground: Ground, members: list[Member], *offsets: float, rate: float = 1.0) -> None:
    """Start these again with clocks that are off by the first of `offsets`, in seconds, then by the next ones; and in
    the end with the machine's own.
    """
    setting = ground.control / "clock"
    _set(setting, offsets[0], rate)
    wrong = {"LD_PRELOAD": str(_library(ground)), "FAULTS_CLOCK": str(setting)}
    _restart(ground, members, wrong)
    for offset in offsets:
        _set(setting, offset, rate)
        time.sleep(WRONG_SECONDS / len(offsets))
    _restart(ground, members, {})


def _restart(ground: Ground, members: list[Member], environment: dict[str, str]) -> None:
    for member in members:
        ground.restart(member, **environment)
    ground.fleet.wait_until_ready([member.name for member in members])


def _set(setting: Path, offset: float, rate: float) -> None:
    with setting.open("r+b" if setting.exists() else "wb") as file:  # in place: it is mapped
        file.write(struct.pack("3d", offset, rate, time.time()))


def _library(ground: Ground) -> Path:
    library, compiler = ground.control / "clock.so", shutil.which("cc")
    if compiler is None:
        raise Skipped("there is no C compiler: apt-get install gcc")
    if not library.exists():
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-lm"], check=True)
    return library


def workers_with_number_one(ground: Ground) -> list[Member]:
    return [member for member in ground.workers() if member.name.endswith("-1")]


@fault("A worker's clock is an hour ahead.", quick=True)
def worker_clock_ahead(ground: Ground) -> None:
    with_clock(ground, [ground.choose(ground.workers())], HOUR)


@fault("A worker's clock is an hour behind.")
def worker_clock_behind(ground: Ground) -> None:
    with_clock(ground, [ground.choose(ground.workers())], -HOUR)


@fault("A worker's clock steps back and forth by a minute.")
def worker_clock_steps(ground: Ground) -> None:
    with_clock(ground, [ground.choose(ground.workers())], 0, -MINUTE, MINUTE, 0)


@fault("The clocks of half of the workers are five percent fast.")
def worker_clocks_fast(ground: Ground) -> None:
    with_clock(ground, workers_with_number_one(ground), 0, rate=1.05)


@fault("The clocks of half of the workers are an hour behind.")
def worker_clocks_behind(ground: Ground) -> None:
    with_clock(ground, workers_with_number_one(ground), -HOUR)


@fault("The clock of a beat is an hour ahead.")
def beat_clock_ahead(ground: Ground) -> None:
    with_clock(ground, [ground.choose(ground.fleet.named("beat"))], HOUR)


@fault("The clock of a beat steps back by a minute.")
def beat_clock_steps(ground: Ground) -> None:
    with_clock(ground, [ground.choose(ground.fleet.named("beat"))], 0, -MINUTE)
