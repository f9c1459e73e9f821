"""`manage.py demo`: the workloads, run for real against the running system, each outcome checked."""

import argparse
import cProfile
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urljoin

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from kombu.exceptions import OperationalError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from handbell import HandbellError
from tasks_app.management.system import SystemUnavailable, system
from tasks_app.models import Run
from tasks_app.workloads import WORKLOADS, Verdict, Workload
from tasks_app.workloads.words import SAMPLES

PAGES = 12
FULL_COUNT = 1_000_000
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """One workload's line: `rate` is tasks per second, from the first call to the last result."""

    name: str
    tasks: int
    seconds: float
    rate: float
    ok: bool
    text: str


class Command(BaseCommand):
    help = "Run the example workloads against the running system (or one started for it) and check every outcome."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the outcomes as JSON on the last line")
        parser.add_argument("--full", action="store_true", help="a million Fibonacci numbers as a job")
        parser.add_argument("--only", default="", metavar="NAMES", help=f"some of: {', '.join(WORKLOADS)}")
        parser.add_argument("--profile", metavar="FILE", help="write cProfile data of this command to FILE")
        parser.add_argument("--url", help="where the web server answers, if `up` did not start it here")
        parser.add_argument(
            "--timeout", type=float, default=120, help="seconds until a workload is given up (default 120)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = _chosen(options["only"])
        self.console = Console(stderr=options["json"], highlight=False)
        profile = cProfile.Profile() if options["profile"] else None
        try:
            with system(options["url"], self.console.print) as url, profile or nullcontext():
                outcomes = [self._outcome(workload, url, options) for workload in chosen]
        except (SystemUnavailable, HandbellError, OperationalError, DatabaseError) as error:
            raise CommandError(str(error)) from error
        if profile:
            profile.dump_stats(options["profile"])
        self._print(outcomes)
        ok = all(outcome.ok for outcome in outcomes)
        if options["json"]:
            rows = [{k: v for k, v in asdict(outcome).items() if k != "text"} for outcome in outcomes]
            self.stdout.write(json.dumps({"ok": ok, "workloads": rows}))
        if not ok:
            sys.exit(1)

    def _outcome(self, workload: Workload, url: str, options: dict[str, Any]) -> Outcome:
        full = options["full"] and workload.slug == "jobs"
        inputs = _inputs(workload, url, FULL_COUNT if full else None)
        timeout = None if full else options["timeout"]
        started = time.monotonic()
        tasks = 0
        try:
            with self._bar(workload.title) as show:
                run = workload.start(inputs)
                tasks = workload.total(run)
                _wait(workload, run, timeout, lambda done: show(done, tasks))
                seconds = time.monotonic() - started
                verdict = workload.judge(run)
        except (TimeoutError, ValueError) as error:
            seconds, verdict = time.monotonic() - started, Verdict(False, str(error))
        return Outcome(workload.slug, tasks, round(seconds, 2), round(tasks / seconds, 1), verdict.ok, verdict.text)

    @contextmanager
    def _bar(self, title: str) -> Iterator[Any]:
        """A progress bar in a terminal, and a line at the start and the end elsewhere."""
        if not self.console.is_terminal:
            self.console.print(f"{title}: started")
            yield lambda done, total: None
            self.console.print(f"{title}: finished")
            return
        columns = (SpinnerColumn(), TextColumn(f"{title:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _print(self, outcomes: list[Outcome]) -> None:
        table = Table(box=None, pad_edge=False)
        for heading, justify in (("workload", "left"), ("tasks", "right"), ("seconds", "right"), ("rate", "right")):
            table.add_column(heading, justify=justify, no_wrap=True, header_style="dim")  # type: ignore[arg-type]
        table.add_column("outcome", overflow="fold", header_style="dim")
        for outcome in outcomes:
            mark = "[green]right[/]" if outcome.ok else "[red]WRONG[/]"
            table.add_row(
                WORKLOADS[outcome.name].title,
                f"{outcome.tasks:,}",
                f"{outcome.seconds:.2f}",
                f"{outcome.rate:,.0f}/s",
                f"{mark}: {outcome.text}",
            )
        self.console.print()
        self.console.print(table)


def _chosen(names: str) -> list[Workload]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in WORKLOADS:
            raise CommandError(f"There is no workload called {name}. There are: {', '.join(WORKLOADS)}.")
    return [WORKLOADS[name] for name in wanted] if wanted else list(WORKLOADS.values())


def _inputs(workload: Workload, url: str, count: int | None) -> dict[str, Any]:
    inputs = dict(workload.demo)
    if workload.slug == "serial":
        inputs["name"] = f"demo-{time.time_ns()}"  # a counter of its own: it ends at exactly the number of increments
    if workload.slug in {"words", "jobs"}:
        inputs["urls"] = [urljoin(url, f"/samples/{name}/") for name in SAMPLES[:PAGES]]
    if count is not None:
        inputs["count"] = count
    return inputs


def _wait(workload: Workload, run: Run, timeout: float | None, show: Any) -> None:
    deadline = time.monotonic() + timeout if timeout else None
    while not (progress := workload.progress(run)).done:
        show(progress.finished)
        if deadline and time.monotonic() > deadline:
            raise TimeoutError(f"only {progress.finished:,} of {progress.total:,} tasks finished in {timeout:.0f} s")
        time.sleep(POLL_SECONDS)
    show(progress.finished)
