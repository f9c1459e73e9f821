"""`manage.py handbell status`: how the system is now, on one page."""

import argparse
import sys
from dataclasses import asdict
from typing import Any

from handbell import states
from handbell.management.base import Subcommand, add_json_option
from handbell.management.jobs import job_as_json
from handbell.management.lanes import lane_as_json
from handbell.management.output import print_facts, print_json, print_table, seconds_shown
from handbell.management.system_status import SystemStatus, system_status


class StatusCommand(Subcommand):
    help = (
        "Show how the system is: the broker, the workers that answer, what waits in each queue, lanes, jobs, launches, "
        "and in sentences whatever is wrong. It reads, and starts nothing."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_json_option(parser)
        parser.add_argument("--check", action="store_true", help="exit with 1 if anything is wrong")

    def handle(self, **options: Any) -> None:
        status = system_status()
        if options["json"]:
            print_json(self.stdout, as_json(status))
        else:
            self._print(status)
        if options["check"] and status.problems:
            sys.exit(1)

    def _print(self, status: SystemStatus) -> None:
        print_facts(self.stdout, _facts(status), {})
        self.stdout.write("")
        print_table(
            self.stdout,
            ("queue", "waiting", "oldest", "scheduled", "workers"),
            {"waiting", "oldest", "scheduled"},
            (
                (
                    queue.name,
                    f"{queue.waiting:,}",
                    seconds_shown(queue.oldest),
                    f"{queue.scheduled:,}" if queue.scheduled else "",
                    ", ".join(queue.workers) or "none",
                )
                for queue in status.queues
            ),
        )
        self.stdout.write("")
        for problem in status.problems:
            self.stdout.write(f"Problem: {problem}")
        if not status.problems:
            self.stdout.write("Nothing is wrong.")


def as_json(status: SystemStatus) -> dict[str, Any]:
    return {
        "up": asdict(status.up) if status.up else None,
        "database": {
            "address": status.database,
            "answers": status.database_answers,
            "takes_writes": status.database_takes_writes,
        },
        "broker": {"address": status.broker, "answers": status.broker_answers},
        "workers": [{"name": name, "queues": queues} for name, queues in status.workers.items()],
        "queues": [asdict(queue) for queue in status.queues],
        "lanes": [lane_as_json(lane) for lane in status.lanes],
        "jobs": [job_as_json(job) for job in status.jobs],
        "launches": status.launches,
        "launch_fences": status.launch_fences,
        "problems": status.problems,
    }


def _facts(status: SystemStatus) -> dict[str, str]:
    running, queued = status.launches[states.RUNNING], status.launches[states.QUEUED]
    active = [job for job in status.jobs if job.status == states.RUNNING and not job.paused]
    jobs = "".join(f"; {job.name} ({job.pk}) {job.done:,} of {job.total:,}" for job in active)
    waiting = len(status.jobs) - len(active)
    return {
        "system": _up(status),
        "database": f"{status.database}: {_database(status)}",
        "broker": f"{status.broker}: {_broker(status)}",
        "workers": _workers(status),
        "lanes": _lanes(status),
        "jobs": f"{len(active)} running, {waiting} queued or paused{jobs}",
        "launches": f"{running:,} running, {queued:,} queued{_fences(status)}",
    }


def _database(status: SystemStatus) -> str:
    if not status.database_answers:
        return "cannot be used"
    return "answers" if status.database_takes_writes else "can only be read"


def _broker(status: SystemStatus) -> str:
    if status.broker_answers:
        return "answers"
    return "takes no messages" if status.broker_refuses else "does not answer"


def _workers(status: SystemStatus) -> str:
    number = len(status.workers)
    if status.workers_are_asked:
        return f"{number} {'answers' if number == 1 else 'answer'}"
    return f"{number} registered as alive; Celery's remote control is off, so none is asked"


def _fences(status: SystemStatus) -> str:
    return f"; held together by {', or '.join(status.launch_fences)}" if status.launch_fences else ""


def _up(status: SystemStatus) -> str:
    up = status.up
    if up is None:
        return "`handbell up` does not run in this folder"
    web = f", pages at {up.web}" if up.web else ""
    process = f"process {up.pid}" if up.is_on_this_machine else f"process {up.pid} of {up.host}"
    return f"`handbell up` runs as {process}{web}{'' if up.ready else ', not ready yet'}"


def _lanes(status: SystemStatus) -> str:
    counted: dict[str, int] = {}
    for found in status.lanes:
        state = str(lane_as_json(found)["state"])
        counted[state] = counted.get(state, 0) + 1
    return ", ".join(f"{number} {state}" for state, number in counted.items())
