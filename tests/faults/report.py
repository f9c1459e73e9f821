"""The table of a run: what was injected, what was promised, and what came of it; for the terminal and for the page."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.faults import checker, mechanisms, soak
from tests.faults.faulting import FAULTS
from tests.faults.mechanisms import Outcome
from tests.faults.run import Injection, Result
from tests.faults.soak import Soak
from tests.system import ROOT

PAGE = ROOT / "docs" / "reliability.md"
HEADINGS = (
    "fault", "injected", "acknowledged", "lost", "begun twice against a promise", "effects doubled", "out of order",
    "wrong result", "killed alive", "stuck", "seconds to recover: median", "worst",
)  # fmt: skip


def rows(results: Sequence[Result]) -> list[list[str]]:
    """A row for each fault that was injected, in the order of the catalogue, and one of the sums."""
    found = []
    for name, fault in FAULTS.items():
        injections = [it for result in results for it in result.injections if it.fault.name == name and not it.skipped]
        if injections:
            found.append([fault.sentence, *_counts(results, name), *_recovery(injections)])
    every = [it for result in results for it in result.injections if not it.skipped]
    found.append(["**all**", *_counts(results, None), *_recovery(every)])
    return found


def _counts(results: Sequence[Result], fault: str | None) -> list[str]:
    injections = [
        it for result in results for it in result.injections if fault in {None, it.fault.name} and not it.skipped
    ]
    acknowledged = sum(
        count for result in results for name, count in result.verdict.acknowledged.items() if fault in {None, name}
    )
    broken = [sum(result.verdict.count(kind, fault) for result in results) for kind in checker.KINDS_OF_FINDINGS]
    stuck = sum(len(it.stuck) for it in injections)
    return [f"{number:,}" for number in (len(injections), acknowledged, *broken, stuck)]


def _recovery(injections: Iterable[Injection]) -> list[str]:
    seconds = [it.recovery_seconds for it in injections]
    return [f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"] if seconds else ["", ""]


def show(results: Sequence[Result], console: Console) -> None:
    table = Table(title="What was injected, and what came of it")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left", min_width=8 if not number else None)
    for row in rows(results):
        table.add_row(*(cell.replace("**", "") for cell in row))
    console.print(table)
    for result in results:
        for finding in result.verdict.findings:
            console.print(
                f"{result.system}: {finding.kind}: {finding.call} ({finding.fault}): {finding.detail}", markup=False
            )
        for line in result.left:
            console.print(f"{result.system}: left running: {line}", markup=False)
    for line in left_out(results):
        console.print(line, markup=False)


def left_out(results: Sequence[Result]) -> list[str]:
    """What could not be injected, and what did not recover, a line each."""
    lines = []
    for result in results:
        for it in result.injections:
            if it.skipped:
                lines.append(f"{result.system}: {it.fault.name} was skipped: {it.skipped}")
            elif it.broken:
                lines.append(f"{result.system}: {it.fault.name} could not be injected: {it.broken}")
            elif missing := it.has_not_recovered:
                lines.append(f"{result.system}: {', '.join(missing)} did not recover from {it.fault.name} in a minute.")
    return sorted(set(lines))


def is_clean(results: Sequence[Result]) -> bool:
    """Whether every promise was kept, and every kind of work went on after each fault."""
    return not any(
        result.verdict.findings or result.left or any(it.broken or it.has_not_recovered for it in result.injections)
        for result in results
    )


def write_json(results: Sequence[Result], path: Path) -> None:
    path.write_text(json.dumps([result.as_json() for result in results], indent=1))


# --- The page ---------------------------------------------------------------------------------------------------------


def write_page(results: Sequence[Result]) -> None:
    """Put the table between the markers of the page."""
    _put("faults", ["", _conditions(results), "", *_markdown(HEADINGS, rows(results)), "", *_notes(results), ""])


def write_mechanisms(outcomes: Sequence[Outcome]) -> None:
    """Put the table of mechanisms between its markers on the page."""
    lines = _markdown(mechanisms.HEADINGS, [outcome.row for outcome in outcomes])
    _put("mechanisms", ["", _conditions([outcome.result for outcome in outcomes]), "", *lines, ""])


def write_soak(found: Soak) -> None:
    """Put the memory of processes under steady load between its markers on the page."""
    calls = sum(found.result.verdict.acknowledged.values())
    lines = _markdown(soak.HEADINGS, [memory.row for memory in found.memory])
    _put("soak", ["", f"{_conditions([found.result])} {calls:,} calls.", "", *lines, ""])


def _put(what: str, lines: Sequence[str]) -> None:
    text, page = "\n".join(lines), PAGE.read_text()
    between = re.compile(rf"(<!-- {what} -->\n).*(<!-- end of {what} -->)", re.DOTALL)
    PAGE.write_text(between.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page))


def _markdown(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(cells)} |" for cells in (headings, *lines)]
    return [head, re.sub(r"[^|]+", "---", head), *body]


def _conditions(results: Sequence[Result]) -> str:
    memory = round(psutil.virtual_memory().total / 2**30)
    packages = ", ".join(f"{name} {version(name)}" for name in ("Django", "Celery", "kombu"))
    minutes = sum(result.seconds for result in results) / 60
    systems = ", ".join(sorted({f"{result.system} (seed {result.seed})" for result in results}))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes, {os.cpu_count()} cores, {memory} GiB, Linux "
        f"{platform.release().partition('-')[0]}, Python {platform.python_version()}, {packages}, handbell at "
        f"{_commit()}. Systems: {systems}."
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no commit"


def _notes(results: Sequence[Result]) -> list[str]:
    return [f"- {line}" for line in left_out(results)]
