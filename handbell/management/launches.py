"""`manage.py handbell launches`: look at isolated launches, and cancel them."""

import argparse
from typing import Any

from django.utils import timezone

from handbell import states
from handbell.errors import LaunchRefused
from handbell.isolated import launches
from handbell.management.base import ListingSubcommand, add_json_option, add_limit_option
from handbell.management.output import print_facts, print_json, print_table
from handbell.models import Launch
from handbell.models.task_result import decoded, error_in

LISTED_LAUNCHES = 20


class LaunchesCommand(ListingSubcommand):
    help = "List the latest launches, show one with its output, cancel."

    def add_list_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--state", choices=Launch.STATUSES, help="only those in this state")
        add_limit_option(parser, LISTED_LAUNCHES)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = self.add_list(parser, "the latest launches")
        show = self.add_action(actions, "show", "one launch, with all that is known of it")
        show.add_argument("launch", type=int, help="the launch's number")
        add_json_option(show)
        cancel = self.add_action(actions, "cancel", "cancel launches, whether they wait or run")
        cancel.add_argument("launch", type=int, nargs="+", help="the launch's number")

    def handle(self, **options: Any) -> None:
        if options["action"] == "show":
            self._show(options["launch"], as_json=options["json"])
        elif options["action"] == "cancel":
            for number in options["launch"]:
                waited = launches.cancel(number) == states.CANCELLED
                done = "is cancelled" if waited else "is being ended by its supervisor"
                self.stdout.write(f"Launch {number} {done}.")
        else:
            self._list(options)

    def _list(self, options: dict[str, Any]) -> None:
        rows = Launch.objects.defer(*Launch.LARGE_COLUMNS)
        rows = (rows.filter(status=options["state"]) if options["state"] else rows)[: options["limit"]]
        if options["json"]:
            print_json(self.stdout, list(map(launch_as_json, rows)))
            return
        headings = ("launch", "task", "state", "seconds", "how it ended")
        print_table(self.stdout, headings, {"launch", "seconds"}, map(_row, rows))

    def _show(self, number: int, *, as_json: bool) -> None:
        row = Launch.objects.filter(pk=number).first()
        if row is None:
            raise LaunchRefused(f"There is no launch {number}. `manage.py handbell launches` lists them.")
        texts = {"traceback": row.traceback, "stdout": row.stdout, "stderr": row.stderr}
        if as_json:
            error, result = error_in(row), decoded(row.result) if row.status == states.SUCCEEDED else None
            arguments = {"arguments": decoded(row.arguments), "result": result, "error": error}
            print_json(self.stdout, {**launch_as_json(row), **arguments, **texts})
            return
        facts = {
            "task": row.task,
            "id": row.task_id,
            "arguments": row.arguments,
            "state": row.status.replace("_", " "),
            "how it ended": row.reason,
            "exit code": row.exit_code,
            "limits": f"{row.timeout:g} s, {row.memory_mb} MiB",
            "enqueued": row.enqueued_at,
            "started": row.started_at,
            "finished": row.finished_at,
            "seconds": _seconds(row),
            "host": row.host,
            "process": row.pid,
            "result": row.result if row.status == states.SUCCEEDED else None,
        }
        print_facts(self.stdout, facts, texts)


def launch_as_json(row: Launch) -> dict[str, Any]:
    return {
        "launch": row.pk,
        "task": row.task,
        "id": row.task_id,
        "state": row.status,
        "how_it_ended": row.reason,
        "exit_code": row.exit_code,
        "timeout_seconds": row.timeout,
        "memory_mb": row.memory_mb,
        "enqueued": row.enqueued_at,
        "started": row.started_at,
        "finished": row.finished_at,
        "host": row.host,
        "process": row.pid,
    }


def _row(row: Launch) -> tuple[str, ...]:
    return (str(row.pk), row.task.rpartition(".")[2], row.status.replace("_", " "), _seconds(row), row.reason)


def _seconds(row: Launch) -> str:
    if row.started_at is None:
        return ""
    return f"{((row.finished_at or timezone.now()) - row.started_at).total_seconds():.2f}"
