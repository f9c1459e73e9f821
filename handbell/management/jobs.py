"""`manage.py handbell jobs`: look at parallel jobs, watch one, steer it, and read its results and failures."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from handbell.errors import JobRefused
from handbell.management.base import ListingSubcommand, add_json_option, add_limit_option
from handbell.management.output import print_facts, print_json, print_table
from handbell.models import JobRow
from handbell.parallel.job import Job
from handbell.retention import delete_jobs

LISTED_JOBS = 30
JOB_ACTIONS: dict[str, tuple[Callable[[Job], None], str, str]] = {
    "pause": (Job.pause, "let no further chunk begin", "is paused"),
    "resume": (Job.resume, "continue after a pause", "is resumed"),
    "cancel": (Job.cancel, "stop for good, between two items", "is cancelled"),
    "retry": (Job.retry_failed, "run the failed items again, and only those", "runs its failed items again"),
}


class JobsCommand(ListingSubcommand):
    help = "List the latest jobs; show, watch, pause, resume, cancel, retry, delete one; read its results and failures."

    def add_list_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--name", default="", help="only those with this in their name")
        add_limit_option(parser, LISTED_JOBS)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = self.add_list(parser, "the latest jobs")
        show = self.add_action(actions, "show", "one job: how far it is, and its last error")
        show.add_argument("id", type=int, help="the job's number")
        add_json_option(show)
        texts = {
            **{name: text for name, (_, text, _) in JOB_ACTIONS.items()},
            "watch": "draw a bar with rate and time left until the job has finished",
            "results": "its results in the order of the items, one JSON value a line; null for a failed item",
            "failures": "index, item, error and traceback of each failed item, one JSON object a line",
            "delete": "forget a job that has finished, with its results",
        }
        for name, text in texts.items():
            self.add_action(actions, name, text).add_argument("id", type=int, help="the job's number")

    def handle(self, **options: Any) -> None:
        action = options["action"] or "list"
        if action == "list":
            self._list(options)
        elif action == "show":
            self._show(self._job(options["id"]), as_json=options["json"])
        else:
            self._do(action, self._job(options["id"]))

    def _job(self, pk: int) -> Job:
        job = Job.objects.filter(pk=pk).first()
        if job is None:
            raise JobRefused(f"There is no job {pk}. `manage.py handbell jobs` lists them.")
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
            delete_jobs(Job.objects.filter(pk=job.pk))
            self.stdout.write(f"Job {job.pk} is deleted.")
        else:
            steer, _, done = JOB_ACTIONS[action]
            steer(job)
            self.stdout.write(f"Job {job.pk} {done}.")

    def _show(self, job: Job, *, as_json: bool) -> None:
        facts = {**job_as_json(job), "value": job.value, "problem": job.problem}
        if as_json:
            print_json(self.stdout, {**facts, "error": job.error})
        else:
            print_facts(self.stdout, facts, {"error": job.error})

    def _list(self, options: dict[str, Any]) -> None:
        headings = ("id", "name", "state", "done", "of", "failed", "rate", "queue")
        jobs = Job.objects.defer("value_json", "stages", "error").filter(name__icontains=options["name"])
        jobs = jobs[: options["limit"]]
        if options["json"]:
            print_json(self.stdout, list(map(job_as_json, jobs)))
            return
        print_table(self.stdout, headings, {"id", "done", "of", "failed", "rate"}, map(_row, jobs))


def job_as_json(job: JobRow) -> dict[str, Any]:
    return {
        "id": job.pk,
        "name": job.name,
        "state": job.status,
        "paused": job.paused,
        "queue": job.queue,
        "source": job.source_state,
        "total": job.total,
        "succeeded": job.succeeded,
        "failed": job.failed,
        "rate": job.rate,
        "enqueued": job.enqueued_at,
        "started": job.started_at,
        "finished": job.finished_at,
    }


def _row(job: Job) -> tuple[str, ...]:
    state = job.state
    total = f"{job.total:,}" + ("" if job.source_state == Job.COMPLETE else f" ({job.source_state})")
    rate = f"{job.rate:,.0f}/s" if job.rate else ""
    return (str(job.pk), job.name, state, f"{job.done:,}", total, f"{job.failed:,}", rate, job.queue)
