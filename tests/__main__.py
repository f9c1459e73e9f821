"""The test command: `python -m tests` for the quick tests, `python -m tests all` for every test.

The quick ones are the unit tests on both databases, side by side, and of the tests of running systems those marked
`core`: one integration, one fault and one browser test of each kind of work.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SYSTEMS = ("tests/integration", "tests/faults", "tests/e2e")
BOTH_COLUMNS = ("-n", "2", "--dist", "loadgroup")
COVERAGE = ("-m", "coverage", "run")
FLOOR = ("-m", "coverage", "report", "--skip-covered")


@dataclass(frozen=True)
class Part:
    """A run of pytest (or another module) with these arguments."""

    name: str
    arguments: Sequence[str]
    program: Sequence[str] = ("-m", "pytest")
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        return [sys.executable, *self.program, *self.arguments]


def unit(program: Sequence[str] = ("-m", "pytest")) -> list[Part]:
    return [
        Part("unit tests, SQLite", ["tests/unit"], program),
        Part("unit tests, PostgreSQL", ["tests/unit"], program, {"TEST_DATABASE": "postgres"}),
    ]


#: Parts that run one after the other; those in one list run side by side.
QUICK = [unit(), [Part("core tests of running systems", [*BOTH_COLUMNS, "-m", "core", *SYSTEMS])]]

MEASURED = {"COVERAGE": "yes"}
ALL = [
    unit((*COVERAGE, "-m", "pytest")),
    [Part("integration tests", [*BOTH_COLUMNS, "tests/integration"], (*COVERAGE, "-m", "pytest"), MEASURED)],
    [Part("coverage", [], ("-m", "coverage", "combine", "--quiet"))],
    [Part("coverage", [], FLOOR)],
    [Part("fault and browser tests", [*BOTH_COLUMNS, "tests/faults", "tests/e2e"])],
    [Part("packaging tests", ["tests/packaging"])],
]


def main() -> int:
    everything = sys.argv[1:] == ["all"]
    if sys.argv[1:] and not everything:
        print("usage: python -m tests [all]")
        return 2
    if everything:
        subprocess.run([sys.executable, "-m", "coverage", "erase"], check=True)
    took: list[tuple[str, float, int]] = []
    for parts in ALL if everything else QUICK:
        took += run_side_by_side(parts)
    print()
    for name, seconds, code in took:
        print(f"{seconds:6.0f} s  {'passed' if code == 0 else 'FAILED'}  {name}")
    if not everything:
        print(
            f"Left out: {left_out()} tests of running systems, and those of packaging. `make test-all` runs everything."
        )
    return max(code for _, _, code in took)


def run_side_by_side(parts: Sequence[Part]) -> list[tuple[str, float, int]]:
    """Run parts at the same time: the first one's output as it comes, that of the others afterwards."""
    started = time.monotonic()
    with ExitStack() as stack:
        running = [stack.enter_context(start(part, number == 0)) for number, part in enumerate(parts)]
        took = []
        for part, (process, output) in zip(parts, running, strict=True):
            code = process.wait()
            took.append((part.name, time.monotonic() - started, code))
            if output is not None:
                output.seek(0)
                print(f"\n--- {part.name}\n{output.read()}", flush=True)
    return took


@contextmanager
def start(part: Part, is_shown: bool) -> Iterator[tuple["subprocess.Popen[str]", IO[str] | None]]:
    environment = {**os.environ, **part.environment}
    if is_shown:
        print(f"\n--- {part.name}", flush=True)
        with subprocess.Popen(part.command, env=environment, text=True) as process:
            yield process, None
        return
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(part.command, env=environment, text=True, stdout=output, stderr=output) as process,
    ):
        yield process, output


def left_out() -> str:
    """How many tests of running systems the quick ones leave out."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not core", *SYSTEMS]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return str(listed.count("::"))


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    sys.exit(main())
