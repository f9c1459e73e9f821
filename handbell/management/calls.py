"""`manage.py handbell calls`: look at the calls of plain tasks, and take one back."""

import argparse
from datetime import timedelta
from typing import Any

from celery import current_app
from django.core.management.base import CommandError
from django.utils import timezone
from django_celery_results.models import TaskResult
from kombu.exceptions import OperationalError

from handbell import states
from handbell.errors import CallRefused
from handbell.management.base import ListingSubcommand, add_json_option, add_limit_option
from handbell.management.output import print_facts, print_json, print_table, seconds_shown
from handbell.models import Call
from handbell.models.task_result import LARGE_RESULT_COLUMNS, decoded, error_in, in_state, queue_of
from handbell.plain.revoke import revoke

LISTED_CALLS = 20


class CallsCommand(ListingSubcommand):
    help = "List the latest calls of plain tasks, show one with its result or error, revoke one."

    def add_list_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--state", choices=list(states.CELERY_STATES), help="only those in this state")
        parser.add_argument("--task", default="", metavar="NAME", help="only those of tasks with this in their name")
        add_limit_option(parser, LISTED_CALLS)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = self.add_list(parser, "the latest calls, whether they wait, run or have finished")
        show = self.add_action(actions, "show", "one call, with all that is known of it")
        show.add_argument("id", help="the id that the call returned")
        add_json_option(show)
        taken_back = self.add_action(actions, "revoke", "cancel a call that waits")
        taken_back.add_argument("id", help="the id that the call returned")
        taken_back.add_argument("--terminate", action="store_true", help="if it runs, end it together with its process")

    def handle(self, **options: Any) -> None:
        if options["action"] == "show":
            self._show(options["id"], as_json=options["json"])
        elif options["action"] == "revoke":
            self._revoke(options["id"], terminate=options["terminate"])
        else:
            self._list(options)

    def _list(self, options: dict[str, Any]) -> None:
        rows = TaskResult.objects.defer(*LARGE_RESULT_COLUMNS).order_by("-date_created")
        if word := options["state"]:
            rows = rows.filter(pk__in=TaskResult.objects.filter(in_state(word)).order_by().values("pk"))
        if part := options["task"]:
            rows = rows.filter(task_name__in=[part, *_task_names(part)])
        calls = [_call(row) for row in rows[: options["limit"]]]
        if options["json"]:
            print_json(self.stdout, calls)
            return
        headings = ("id", "task", "state", "queue", "called", "waited", "took", "worker")
        print_table(self.stdout, headings, {"waited", "took"}, map(_row, calls))

    def _show(self, task_id: str, *, as_json: bool) -> None:
        row: Any = TaskResult.objects.filter(task_id=task_id).first()
        if row is None:
            raise CallRefused(f"There is no call {task_id}. `manage.py handbell calls` lists the latest.")
        call = _call(row)
        error = error_in(row)
        waiting_or_running = Call.objects.filter(task_id=task_id).first()
        call.update(
            args=decoded(row.task_args),
            kwargs=decoded(row.task_kwargs),
            periodic_task=row.periodic_task_name,
            crash_count=waiting_or_running.crash_count if waiting_or_running else None,
            result=None if error or call["state"] in states.UNFINISHED else decoded(row.result),
            error=error,
            traceback=row.traceback,
        )
        if as_json:
            print_json(self.stdout, call)
            return
        facts = {name.replace("_", " "): value for name, value in call.items() if name != "traceback"}
        for name in ("waited", "took"):
            facts[name] = seconds_shown(call[name])
        print_facts(self.stdout, facts, {"traceback": row.traceback})

    def _revoke(self, task_id: str, *, terminate: bool) -> None:
        try:
            state = revoke(task_id, terminate=terminate)
        except OperationalError as error:
            raise CommandError(f"The broker does not answer ({error}), so the worker cannot be told.") from error
        done = "is revoked" if state == states.CANCELLED else "is being ended by its worker"
        self.stdout.write(f"Call {task_id} {done}.")


def _call(row: Any) -> dict[str, Any]:
    state, now = states.word(row.status), timezone.now()
    finished = row.date_done if state in states.FINISHED else None
    waited = None if finished and row.date_started is None else (row.date_started or now) - row.date_created
    took = (finished or now) - row.date_started if row.date_started else None
    return {
        "id": row.task_id,
        "task": row.task_name,
        "state": state,
        "queue": queue_of(row),
        "called": row.date_created,
        "waited": waited,
        "started": row.date_started,
        "finished": finished,
        "took": took,
        "worker": row.worker,
    }


def _row(call: dict[str, Any]) -> tuple[str, ...]:
    waited: timedelta | None = call["waited"]
    took: timedelta | None = call["took"]
    return (
        call["id"],
        (call["task"] or "").rpartition(".")[2],
        call["state"],
        call["queue"] or "",
        f"{call['called']:%Y-%m-%d %H:%M:%S}",
        seconds_shown(waited),
        seconds_shown(took),
        (call["worker"] or "").partition("@")[0],
    )


def _task_names(part: str) -> list[str]:
    """The registered tasks with this in their names: the index on the whole name serves a question for them."""
    current_app.loader.import_default_modules()
    return [name for name in current_app.tasks if part.lower() in name.lower()]
