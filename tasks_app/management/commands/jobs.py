"""`manage.py jobs`: look at parallel jobs, watch one, steer it, and read its results and failures."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand

from tasks_app.errors import JobRefused
from tasks_app.management.output import print_table, refusals_as_sentences
from tasks_app.models import Job
from tasks_app.pruning import delete_in_batches

LISTED = 30
ACTIONS: dict[str, tuple[Callable[[Job], None], str, str]] = {
    "pause": (Job.pause, "let no further chunk begin", "is paused"),
    "resume": (Job.resume, "go on after a pause", "goes on"),
    "cancel": (Job.cancel, "stop for good, between two items", "is cancelled"),
    "retry": (Job.retry_failed, "run the failed items again, and only those", "runs its failed items again"),
}


class Command(BaseCommand):
    help = "List the latest jobs; watch, pause, resume, cancel, retry or delete one; read its results and failures."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="ACTION")
        listing = actions.add_parser("list", help="the latest jobs (this is what happens without an action)")
        listing.add_argument("--name", default="", help="those whose name contains this")
        texts = {
            **{name: text for name, (_, text, _) in ACTIONS.items()},
            "watch": "draw a bar with rate and time left until the job has finished",
            "results": "its results in the order of the items, one JSON value a line; null for a failed item",
            "failures": "index, item, error and traceback of each failed item, one JSON object a line",
            "delete": "forget a job that has finished, with its results",
        }
        for name, text in texts.items():
            actions.add_parser(name, help=text).add_argument("id", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        action = options["action"] or "list"
        with refusals_as_sentences():
            if action == "list":
                self._list(options.get("name") or "")
            else:
                self._do(action, self._job(options["id"]))

    def _job(self, pk: int) -> Job:
        job = Job.objects.filter(pk=pk).first()
        if job is None:
            raise JobRefused(f"There is no job {pk}. `manage.py jobs` lists them.")
        return job

    def _do(self, action: str, job: Job) -> None:
        if action == "watch":
            job.wait(progress=True)
            self.stdout.write(f"Job {job.pk}, {job.name}: {job.status}, {job.succeeded:,} done, {job.failed:,} failed.")
        elif action == "results":
            for result in job.results():
                self.stdout.write(json.dumps(result))
        elif action == "failures":
            for failure in job.failures():
                self.stdout.write(json.dumps(failure))
        elif action == "delete":
            if not job.finished:
                raise JobRefused(f"Job {job.pk} is {job.status}. Cancel it first.")
            delete_in_batches(Job.objects.filter(pk=job.pk))
            self.stdout.write(f"Job {job.pk} is deleted.")
        else:
            steer, _, done = ACTIONS[action]
            steer(job)
            self.stdout.write(f"Job {job.pk} {done}.")

    def _list(self, name: str) -> None:
        headings = ("id", "name", "state", "done", "of", "failed", "rate", "queue")
        jobs = Job.objects.filter(name__icontains=name)[:LISTED]
        print_table(self.stdout, headings, {"id", "done", "of", "failed", "rate"}, map(_row, jobs))


def _row(job: Job) -> tuple[str, ...]:
    state = "paused" if job.paused and not job.finished else job.status
    total = f"{job.total:,}" + ("" if job.source_state == Job.COMPLETE else f" ({job.source_state})")
    rate = f"{job.rate:,.0f}/s" if job.rate else ""
    return (str(job.pk), job.name, state, f"{job.done:,}", total, f"{job.failed:,}", rate, job.queue)
