"""Whether memory stays flat: a system under steady load and without faults, for an hour."""

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from tests.faults.ground import Ground, running
from tests.faults.run import Result, Run, judged

LOOK_SECONDS = 10.0
WARM_UP = 0.2  # of the time, in which processes load what they need, and copy what they share with their parents
MAX_GROWTH = 1.1
MEASURED = ("worker", "far", "beat", "web")
HEADINGS = ("process", "how many", "MB after the first fifth", "in the middle", "at the end", "growth")


class Memory(NamedTuple):
    """The memory of one member of the fleet with all that it has started: medians over a tenth of the time, in MB."""

    member: str
    processes: int
    first_mb: float
    middle_mb: float
    last_mb: float

    @property
    def growth(self) -> float:
        return self.last_mb / self.first_mb

    @property
    def row(self) -> tuple[str, ...]:
        figures = (f"{self.first_mb:.1f}", f"{self.middle_mb:.1f}", f"{self.last_mb:.1f}", f"{self.growth:.2f}")
        return (self.member, str(self.processes), *figures)


class Soak(NamedTuple):
    """What a soak came to."""

    result: Result
    memory: Sequence[Memory]

    @property
    def is_clean(self) -> bool:
        return not self.result.verdict.findings and all(it.growth <= MAX_GROWTH for it in self.memory)


def soak(system: str, folder: Path, seconds: float, seed: int, say: Any) -> Soak:
    """Run the system under its load for so many seconds, and look at its processes."""
    started = time.monotonic()
    with running(system, folder, seed) as ground:
        say(f"{system}: everything runs after {time.monotonic() - started:.0f} s")
        run = Run(ground, say)
        memory = watch_memory(ground, run, seconds, say)
        return Soak(judged(run, seed, started), memory)


def watch_memory(ground: Ground, run: Run, seconds: float, say: Any) -> list[Memory]:
    samples: dict[str, list[float]] = defaultdict(list)
    counts: dict[str, int] = {}
    begin, said_at = time.monotonic(), 0.0
    while (passed := time.monotonic() - begin) < seconds:
        for member in filter(lambda it: it.is_alive, ground.fleet.named(*MEASURED)):
            processes = [member.process, *member.process.children(recursive=True)]
            samples[member.name].append(sum(map(private_mb, processes)))
            counts[member.name] = len(processes)
        run.watch.look()
        if passed - said_at >= seconds / 20:
            said_at = passed
            total = sum(found[-1] for found in samples.values())
            say(f"{ground.name}: {passed / 60:.0f} minutes, {total:.0f} MB, {len(run.watch.waiting)} calls wait")
        time.sleep(LOOK_SECONDS)
    return [_summary(name, counts[name], found) for name, found in samples.items()]


def _summary(name: str, processes: int, samples: Sequence[float]) -> Memory:
    tenth = max(1, len(samples) // 10)
    moments = (int(len(samples) * WARM_UP), len(samples) // 2, len(samples) - tenth)
    return Memory(name, processes, *(statistics.median(samples[begin : begin + tenth]) for begin in moments))


def private_mb(process: psutil.Process) -> float:
    """What would be free if it ended, in MB; nothing for one that has ended."""
    with suppress(psutil.Error):
        return float(process.memory_full_info().uss) / 2**20
    return 0.0


def show(found: Soak, console: Console) -> None:
    table = Table(title="Private memory under steady load")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for memory in found.memory:
        table.add_row(*memory.row)
    console.print(table)
    for finding in found.result.verdict.findings:
        console.print(f"{finding.kind}: {finding.call}: {finding.detail}", markup=False)
