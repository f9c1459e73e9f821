"""The three lists of the other workloads as three jobs: one message each, however many items there are."""

from typing import Any

from django.contrib.auth.models import User

from handbell import Job, states
from tasks_app.models import Run, Score
from tasks_app.tasks import collatz_steps, fibonacci_job, scores_job, words_job
from tasks_app.workloads.base import Progress, Verdict, Workload
from tasks_app.workloads.fibonacci import numbers_up_to

JOB_COUNT = 3
WORDS = ["the", "if", "return", "object"]


class Jobs(Workload):
    slug = "jobs"
    title = "Parallel jobs"
    summary = (
        "The same lists as jobs: idle processes take chunks of a fitting size; every result is kept, saved or reduced."
    )
    demo = {"n": 20, "count": 50_000, "ids": 5_000}

    def start(self, inputs: dict[str, Any], user: User | None = None) -> Run:
        jobs = (
            words_job(inputs["urls"], WORDS),
            scores_job(inputs["ids"]),
            fibonacci_job(inputs["count"], inputs["n"]),
        )
        return Run.objects.create(workload=self.slug, inputs=inputs, job_ids=[job.pk for job in jobs], started_by=user)

    def send(self, inputs: dict[str, Any]) -> list[str]:
        return []  # jobs send their own doorbells

    def total(self, run: Run) -> int:
        return int(run.inputs.get("count", 0) + run.inputs.get("ids", 0) + len(run.inputs.get("urls", ())))

    def progress(self, run: Run) -> Progress:
        jobs, total = self.jobs(run), self.total(run)
        finished = all(job.finished for job in jobs)
        succeeded, failed = sum(job.succeeded for job in jobs), sum(job.failed for job in jobs)
        return Progress(
            total=total,
            running=0 if finished else sum(job.claimed - job.done for job in jobs if job.status == states.RUNNING),
            succeeded=succeeded,
            failed=failed,
            cancelled=total - succeeded - failed if finished else 0,
        )

    def judge(self, run: Run) -> Verdict:
        jobs = self.jobs(run)
        for job in jobs:
            if job.status != states.SUCCEEDED:
                failure = next(job.failures(), {"error": job.error})
                return Verdict(False, f"{job.name}: {job.status}, {job.failed:,} failed: {failure['error']}")
        if len(jobs) != JOB_COUNT:
            return Verdict(False, "A job has been deleted.")
        words, _, numbers = jobs
        n, ids = run.inputs["n"], run.inputs["ids"]
        expected = numbers_up_to(n)
        right = sum(value == expected[index % (n + 1)] for index, value in enumerate(numbers.results()))
        saved = dict(Score.objects.filter(item__range=(1, ids)).values_list("item", "value"))
        ok = (
            right == run.inputs["count"]
            and saved == {item: collatz_steps(item) for item in range(1, ids + 1)}
            and words.value is not None
            and sum(words.value.values()) > 0
        )
        chunks = sum(job.chunks.count() for job in jobs)
        return Verdict(ok, f"{right:,} numbers right, {len(saved):,} rows saved, {words.total} pages; {chunks} chunks")

    def jobs(self, run: Run) -> list[Job]:
        found = Job.objects.in_bulk(run.job_ids)
        return [found[pk] for pk in run.job_ids if pk in found]

    def live(self, run: Run) -> list[tuple[str, str]]:
        return [(job.name, f"{job.done:,}") for job in self.jobs(run)]
