"""The fault suite: `python -m tests.faults [--minutes N] [--seed S] [--system NAME] [--only NAME,…] [--json FILE]`.

It starts each system with servers of its own, keeps every kind of work going, injects faults at random, one after the
other, and has an independent checker count what was lost, done twice, done in the wrong order, or stuck.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.faults import catalogue, mechanisms, report, soak
from tests.faults.disabled import MECHANISMS
from tests.faults.faulting import FAULTS
from tests.faults.ground import SYSTEMS
from tests.faults.run import Result, Schedule, run_on
from tests.system import ROOT

MINUTES, SELECTION_MINUTES, SOAK_MINUTES = 20, 1.5, 60


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"how long to inject faults, in all (default {MINUTES}; of a soak: {SOAK_MINUTES})",
    )
    parser.add_argument("--seed", type=int, help="of the random schedule (default: any)")
    parser.add_argument("--system", choices=SYSTEMS, help="on this system only")
    parser.add_argument("--only", default="", metavar="NAME,…", help="these faults only; --list names them")
    parser.add_argument(
        "--selection",
        action="store_true",
        help="what CI runs: the quick faults, for a minute and a half, on one system of the seed's choice",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found into this file")
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave histories, logs and databases here")
    parser.add_argument(
        "--mechanisms",
        nargs="?",
        const="all",
        metavar="NAME,…",
        help="turn off mechanisms of the engine, one by one, to see that the suite notices",
    )
    parser.add_argument(
        "--soak", action="store_true", help=f"no faults: whether memory stays flat (by default on {SYSTEMS[0]})"
    )
    parser.add_argument("--list", action="store_true", help="name all faults")
    return parser.parse_args()


def main() -> int:
    given, console = arguments(), Console(width=None if sys.stdout.isatty() else 240)
    if given.list:
        for fault in FAULTS.values():
            console.print(f"{fault.name:<32} {fault.sentence}", markup=False)
        return 0
    names = [name for name in given.only.split(",") if name]
    if unknown := set(names) - set(FAULTS):
        console.print(f"There is no fault {', '.join(sorted(unknown))}. --list names them.")
        return 2
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    if given.mechanisms:
        return without_mechanisms(given, seed, console)
    if given.soak:
        return without_faults(given, seed, console)
    faults = [it for it in FAULTS.values() if (not names or it.name in names) and (it.is_quick or not given.selection)]
    systems = [given.system] if given.system else list(SYSTEMS)
    if given.selection:
        systems = [random.Random(seed).choice(systems)]
    minutes = SELECTION_MINUTES if given.selection else given.minutes or MINUTES
    console.print(f"seed {seed}, {len(faults)} faults, {minutes:g} minutes on {', '.join(systems)}")
    results: list[Result] = []
    schedule = Schedule(faults, seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        for system in systems:
            folder = (given.keep or Path(name)) / system
            results.append(run_on(system, folder, schedule, minutes * 60 / len(systems), sayer(console)))
            if given.json:  # after each, for the next one takes a while
                report.write_json(results, given.json)
    report.show(results, console)
    if given.write_docs:
        report.write_page(results)
    return 0 if report.is_clean(results) else 1


def sayer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)


def without_mechanisms(given: argparse.Namespace, seed: int, console: Console) -> int:
    names = list(MECHANISMS) if given.mechanisms == "all" else given.mechanisms.split(",")
    console.print(f"seed {seed}, {len(names)} mechanisms")
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        outcomes = mechanisms.run_without(names, given.keep or Path(name), seed, sayer(console))
    mechanisms.show(outcomes, console)
    if given.write_docs:
        report.write_mechanisms(outcomes)
    return 0 if all(outcome.is_right for outcome in outcomes) else 1


def without_faults(given: argparse.Namespace, seed: int, console: Console) -> int:
    minutes = given.minutes or SOAK_MINUTES
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = (given.keep or Path(name)) / "soak"
        found = soak.soak(given.system or SYSTEMS[0], folder, minutes * 60, seed, sayer(console))
    soak.show(found, console)
    if given.write_docs:
        report.write_soak(found)
    return 0 if found.is_clean else 1


assert catalogue.__all__  # it has filled the list
if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
