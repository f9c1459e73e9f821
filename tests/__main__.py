"""The test command: `python -m tests` for the tests to run often, `python -m tests all` for every test, and `python -m
tests coverage` for what unit and integration tests cover, processes that they start included.

The first are the unit tests on both databases, and of the tests of running systems those marked `core`, on SQLite and
the embedded broker: one integration, one fault and one browser test of each kind of work.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

AT_A_TIME = 2
SYSTEMS = ("tests/integration", "tests/faults", "tests/e2e")
PYTEST = ("-m", "pytest")
MEASURED_PYTEST = ("-m", "coverage", "run", "-m", "pytest")


@dataclass(frozen=True)
class Part:
    """A run of pytest with these arguments."""

    name: str
    arguments: Sequence[str]
    program: Sequence[str] = PYTEST
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        return [sys.executable, *self.program, *self.arguments]


@dataclass(frozen=True)
class Outcome:
    """How a part went: its exit code, how long it took in seconds, and pytest's lines about tests that failed."""

    name: str
    code: int
    seconds: float
    failures: list[str]


def unit(program: Sequence[str], *options: str) -> list[Part]:
    return [
        Part("unit/sqlite", ["tests/unit", *options], program),
        Part("unit/postgres", ["tests/unit", *options], program, {"TEST_DATABASE": "postgres"}),
    ]


def both_columns(name: str, folders: Sequence[str], program: Sequence[str] = PYTEST) -> list[Part]:
    """A part for SQLite with Valkey, and one for PostgreSQL with RabbitMQ."""
    return [
        Part(f"{name}/sqlite", ["-m", "not rabbitmq", *folders], program),
        Part(f"{name}/postgres", ["-m", "rabbitmq", *folders], program),
    ]


#: It counts processes and milliseconds, and a measured process needs a moment to end.
UNMEASURED = "tests/unit/test_isolated_fork_server.py"
QUICK = [Part("core", ["-m", "core and not rabbitmq", *SYSTEMS]), *unit(PYTEST)]
#: Celery's own tests mostly wait, for a quarter of an hour: they run beside the others.
CELERY = [
    Part("celery/canvas", ["-k", "canvas", "tests/published"]),
    Part("celery/others", ["-k", "not canvas", "tests/published"]),
]
ALL = [
    *both_columns("faults+e2e", ["tests/faults", "tests/e2e"]),
    *both_columns("integration", ["tests/integration"]),
    *unit(PYTEST),
    Part("packaging", ["tests/packaging"]),
]
MEASURED = [
    *both_columns("integration", ["tests/integration"], MEASURED_PYTEST),
    *unit(MEASURED_PYTEST, f"--ignore={UNMEASURED}"),
]
#: What each argument runs: lists side by side, and of each two parts at a time, one per core.
PLANS = {"": (QUICK,), "all": (CELERY, ALL), "coverage": (MEASURED,)}


def main() -> int:
    plan = " ".join(sys.argv[1:])
    if plan not in PLANS:
        print("usage: python -m tests [all | coverage]")
        return 2
    if plan == "coverage":
        coverage("erase")
    with tempfile.TemporaryDirectory(prefix="t") as folder, ExitStack() as pools:
        runs = [
            pools.enter_context(ThreadPoolExecutor(AT_A_TIME)).map(lambda part: run(part, Path(folder)), parts)
            for parts in PLANS[plan]
        ]
        outcomes = [outcome for outcomes in runs for outcome in outcomes]
    code = max(outcome.code for outcome in outcomes)
    if plan == "coverage":
        coverage("combine", "--quiet")
        code = max(code, coverage("report", "--skip-covered"))
    print()
    for outcome in outcomes:
        print(*(f"{outcome.name:<20} {failure}" for failure in outcome.failures), sep="", end="")
    for outcome in outcomes:
        print(f"{outcome.seconds:6.0f} s  {'passed' if outcome.code == 0 else 'FAILED'}  {outcome.name}")
    if plan == "":
        print(f"Left out: {left_out()} tests of running systems, and packaging. `make test-all` runs everything.")
    return code


def run(part: Part, folder: Path) -> Outcome:
    """Run a part to its end, with its name before each line of its output.

    It has a folder of its own: pytest makes the common one private again each time it starts, and shuts out PostgreSQL,
    which runs as another user, from that of the part beside it. Its name goes into URLs, so only plain letters are
    in it.
    """
    started = time.monotonic()
    failures = []
    with subprocess.Popen(
        [*part.command, f"--basetemp={folder / re.sub(r'[^a-z0-9]', '-', part.name)}"],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **part.environment},
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


def coverage(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "coverage", *arguments], check=False).returncode


def left_out() -> int:
    """How many tests of running systems the core leaves out."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "rabbitmq or not core", *SYSTEMS]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.count("::")


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    sys.exit(main())
