"""The test command: `python -m tests` for the tests to run often, `python -m tests all` for every test, and `python -m
tests coverage` for what unit and integration tests cover, processes that they start included.

The first are the unit tests on both databases, and of the tests of running systems those marked `core`, on SQLite and
the embedded broker: one integration, one fault and one browser test of each kind of work. They run on this Python, with
the locked Django. `all` and `coverage` run the unit and integration tests at the other end of the range of versions,
on the newest Python of this machine with Django 6, whose coverage costs little; and all the others on this one.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.packaging.environments import Environment, find_python

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ("tests/integration", "tests/faults", "tests/e2e")
WAITING_AT_A_TIME = 2
NEWEST = ("3.13", "3.12")  # the Pythons of the other end of the range, that with the most first


@dataclass(frozen=True)
class Part:
    """A run of pytest with these arguments. One that is `measured` runs on the newest Python, with coverage; one that
    `mostly_waits` runs beside the others.
    """

    name: str
    arguments: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    measured: bool = False
    mostly_waits: bool = False


@dataclass(frozen=True)
class Plan:
    """The parts of a test command, and how many of those run side by side that do not mostly wait."""

    parts: Sequence[Part]
    at_a_time: int

    @property
    def is_measured(self) -> bool:
        return any(part.measured for part in self.parts)


@dataclass(frozen=True)
class Outcome:
    """How a part went: its exit code, how long it took in seconds, and pytest's lines about tests that failed."""

    name: str
    code: int
    seconds: float
    failures: list[str]


def unit(*options: str, measured: bool = False) -> list[Part]:
    return [
        Part("unit/sqlite", ["tests/unit", *options], measured=measured),
        Part("unit/postgres", ["tests/unit", *options], {"TEST_DATABASE": "postgres"}, measured),
    ]


def both_columns(name: str, *folders: str, measured: bool = False) -> list[Part]:
    """A part for SQLite with Valkey, and one for PostgreSQL with RabbitMQ."""
    return [
        Part(f"{name}/sqlite", ["-m", "not rabbitmq", *folders], measured=measured),
        Part(f"{name}/postgres", ["-m", "rabbitmq", *folders], measured=measured),
    ]


#: It counts processes and milliseconds, and a measured process needs a moment to end.
UNMEASURED = "tests/unit/test_isolated_fork_server.py"
MEASURED = [
    *both_columns("integration", "tests/integration", measured=True),
    unit(f"--ignore={UNMEASURED}", measured=True)[0],  # `make test` runs them on PostgreSQL
]
#: By how long they take: the longest begin first.
ALL = [
    Part("celery/chords", ["-k", "chords", "tests/published"], mostly_waits=True),
    Part("celery/canvas", ["-k", "canvas", "tests/published"], mostly_waits=True),
    *both_columns("faults+e2e", "tests/faults", "tests/e2e"),
    *MEASURED[:1],
    Part("celery/others", ["-k", "not canvas and not chords", "tests/published"], mostly_waits=True),
    *MEASURED[1:],
    Part("packaging", ["tests/packaging"]),
]
PLANS = {
    "": Plan([Part("core", ["-m", "core and not rabbitmq", *SYSTEMS]), *unit()], at_a_time=2),
    "all": Plan(ALL, at_a_time=3),
    "coverage": Plan(MEASURED, at_a_time=2),
}


def main() -> int:
    plan = PLANS.get(" ".join(sys.argv[1:]))
    if plan is None:
        print("usage: python -m tests [all | coverage]")
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="t") as name,
        ThreadPoolExecutor(plan.at_a_time) as pool,
        ThreadPoolExecutor(WAITING_AT_A_TIME) as waiting_pool,
    ):
        folder = Path(name)
        newest = newest_python(folder) if plan.is_measured else None
        pools = [(waiting_pool if part.mostly_waits else pool, part) for part in plan.parts]
        outcomes = [it.result() for it in [pool.submit(run, part, folder, newest) for pool, part in pools]]
        code = max(outcome.code for outcome in outcomes)
        if newest:
            coverage(newest, folder, "combine", "--quiet")
            code = max(code, coverage(newest, folder, "report", "--skip-covered"))
    print()
    for outcome in outcomes:
        print(*(f"{outcome.name:<20} {failure}" for failure in outcome.failures), sep="", end="")
    for outcome in outcomes:
        print(f"{outcome.seconds:6.0f} s  {'passed' if outcome.code == 0 else 'FAILED'}  {outcome.name}")
    if not plan.is_measured:
        print(f"Left out: {left_out()} tests of running systems, and packaging. `make test-all` runs everything.")
    return code


def newest_python(folder: Path) -> Path | None:
    """The newest Python of this machine, in an environment of its own with Django 6 and the locked requirements; None
    if there is none, which the packaging tests say.
    """
    python = next(filter(None, map(find_python, NEWEST)), None)
    if python is None:
        print(f"Python {' or '.join(NEWEST)} is missing: unit and integration tests run on this one, unmeasured.")
        return None
    environment = Environment.make(folder / "newest", python)
    environment.install("--require-hashes", "-r", "requirements-dev.txt")
    environment.install("--require-hashes", "--no-deps", "-r", "requirements-django6.txt")
    return environment.python


def run(part: Part, folder: Path, newest: Path | None) -> Outcome:
    """Run a part to its end, with its name before each line of its output.

    It has a folder of its own: pytest makes the common one private again each time it starts, and shuts out PostgreSQL,
    which runs as another user, from that of the part beside it. Its name goes into URLs, so only plain letters are
    in it.
    """
    started = time.monotonic()
    failures = []
    program, measuring = [sys.executable], {}
    if part.measured and newest:
        program = [str(newest), "-m", "coverage", "run"]
        measuring = {**measurement(folder), "PATH": f"{newest.parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        [*program, "-m", "pytest", *part.arguments, f"--basetemp={folder / re.sub(r'[^a-z0-9]', '-', part.name)}"],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **measuring, **part.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{part.name:<20} {line}", end="", flush=True)
            if line.startswith(("FAILED ", "ERROR ")):
                failures.append(line)
    return Outcome(part.name, process.returncode, time.monotonic() - started, failures)


def measurement(folder: Path) -> dict[str, str]:
    """What coverage reads from the environment: where its data goes, and how it looks at a program that runs, which
    slows it down by a seventh instead of by a half, as its usual way does.
    """
    return {"COVERAGE_FILE": str(folder / "coverage"), "COVERAGE_CORE": "sysmon"}


def coverage(python: Path, folder: Path, *arguments: str) -> int:
    environment = {**os.environ, **measurement(folder)}
    return subprocess.run([python, "-m", "coverage", *arguments], env=environment, check=False).returncode


def left_out() -> int:
    """How many tests of running systems the core leaves out."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "rabbitmq or not core", *SYSTEMS]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.count("::")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
