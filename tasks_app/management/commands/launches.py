"""`manage.py launches`: look at isolated launches, and cancel them."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from tasks_app import states
from tasks_app.errors import LaunchRefused
from tasks_app.isolated import launches
from tasks_app.management.output import print_table, refusals_as_sentences
from tasks_app.models import Launch

SHOWN = 20


class Command(BaseCommand):
    help = "List the latest launches, show one with its output, cancel."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="ACTION")
        listing = actions.add_parser("list", help="the latest (this is what happens without an action)")
        listing.add_argument("--state", choices=Launch.STATUSES, help="only those in this state")
        listing.add_argument("--most", type=int, default=SHOWN, metavar="N", help=f"how many (default {SHOWN})")
        for name, text in {"show": "one launch, with all that is known of it", "cancel": "cancel launches"}.items():
            action = actions.add_parser(name, help=text)
            action.add_argument("launch", type=int, nargs="+" if name == "cancel" else None, help="the launch's number")

    def handle(self, *args: Any, **options: Any) -> None:
        with refusals_as_sentences():
            if options["action"] == "show":
                self._show(options["launch"])
            elif options["action"] == "cancel":
                for number in options["launch"]:
                    waited = launches.cancel(number) == states.CANCELLED
                    done = "is cancelled" if waited else "is being ended by its supervisor"
                    self.stdout.write(f"Launch {number} {done}.")
            else:
                self._list(options.get("state"), options.get("most", SHOWN))

    def _list(self, state: str | None, most: int) -> None:
        rows = Launch.objects.filter(status=state) if state else Launch.objects.all()
        found = rows.defer("arguments", "result", "traceback", "stdout", "stderr")[:most]
        headings = ("launch", "task", "state", "seconds", "how it ended")
        print_table(self.stdout, headings, {"launch", "seconds"}, map(_row, found))

    def _show(self, number: int) -> None:
        row = Launch.objects.filter(pk=number).first()
        if row is None:
            raise LaunchRefused(f"There is no launch {number}. `manage.py launches` lists them.")
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
        for name, value in facts.items():
            if value not in {None, ""}:
                self.stdout.write(f"{name:<13} {value}")
        for name, text in {"traceback": row.traceback, "stdout": row.stdout, "stderr": row.stderr}.items():
            if text:
                self.stdout.write(f"\n--- {name}\n{text}")


def _row(row: Launch) -> tuple[str, ...]:
    return (str(row.pk), row.task.rpartition(".")[2], row.status.replace("_", " "), _seconds(row), row.reason)


def _seconds(row: Launch) -> str:
    if row.started_at is None:
        return ""
    return f"{((row.finished_at or timezone.now()) - row.started_at).total_seconds():.2f}"
