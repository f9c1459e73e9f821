"""Whether the suite can fail: one mechanism of the engine after the other is turned off, and the faults are injected
that it is there for.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.faults.disabled import MECHANISMS, VARIABLE, Mechanism
from tests.faults.faulting import FAULTS
from tests.faults.run import KINDS, Result, Schedule, run_on

SECONDS_PER_FAULT = 30.0
DRAIN_SECONDS = 20.0
SLOW_SECONDS = 7  # of some calls: they still run when what had claimed them stood still, and goes on
STUCK_SECONDS = 10 + 2 * SLOW_SECONDS  # one may wait for another, and run twice
ALL_ON = Mechanism("every mechanism is on", lambda: None, ())
NOTHING = {False: "nothing", True: "**nothing**"}
HEADINGS = ("mechanism", "without it", "faults", "what the suite reported")


class Outcome(NamedTuple):
    """What came of a mechanism that was turned off."""

    name: str
    mechanism: Mechanism
    result: Result

    @property
    def report(self) -> str:
        """What the suite has noticed, in a line; nothing if it has noticed nothing."""
        found = Counter(finding.kind for finding in self.result.verdict.findings)
        parts = [f"{kind} {count}" for kind, count in sorted(found.items())]
        injections = self.result.injections
        if stuck := sum(len(it.stuck) for it in injections):
            parts.append(f"stuck {stuck}")
        if missing := sorted({kind for it in injections for kind in KINDS if kind not in it.recovered}):
            parts.append(f"did not recover: {', '.join(missing)}")
        return ", ".join(parts)

    @property
    def is_right(self) -> bool:
        """Whether the suite has noticed that the mechanism was missing; or nothing, if none was."""
        return bool(self.report) == bool(self.name)

    @property
    def row(self) -> tuple[str, ...]:
        return (
            self.name,
            self.mechanism.sentence,
            ", ".join(self.mechanism.faults),
            self.report or NOTHING[bool(self.name)],
        )


def run_without(names: Sequence[str], folder: Path, seed: int, say: Any) -> list[Outcome]:
    """Run the suite once with every mechanism, and once without each of these."""
    outcomes = []
    faults = dict.fromkeys(fault for name in names for fault in MECHANISMS[name].faults)
    mechanisms = {"": replace(ALL_ON, faults=tuple(faults)), **{name: MECHANISMS[name] for name in names}}
    for name, mechanism in mechanisms.items():
        schedule = Schedule([FAULTS[fault] for fault in mechanism.faults], seed)
        said = f"without {name}" if name else "with everything"
        say(f"{said}: {', '.join(mechanism.faults)} on {mechanism.system}")
        result = run_on(
            mechanism.system,
            folder / (name or "all-on"),
            schedule,
            SECONDS_PER_FAULT * len(mechanism.faults),
            say,
            drain_seconds=DRAIN_SECONDS,
            stuck_seconds=STUCK_SECONDS,
            **{VARIABLE: name, "FAULTS_SLOW_SECONDS": str(SLOW_SECONDS)},
        )
        outcomes.append(Outcome(name, mechanism, result))
        say(f"{said} the suite reported: {outcomes[-1].report or 'nothing'}")
    return outcomes


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    table = Table(title="What the suite reports when a mechanism is missing")
    for heading in HEADINGS:
        table.add_column(heading)
    for outcome in outcomes:
        table.add_row(*(cell.replace("**", "") for cell in outcome.row))
    console.print(table)
