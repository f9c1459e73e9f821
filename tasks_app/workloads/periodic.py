"""Beat starts a periodic task: here the deletion of old results, once, soon."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import TaskResult

from tasks_app.models import Run
from tasks_app.tasks import delete_old_results
from tasks_app.workloads.base import Verdict, Workload, in_words

NAME = "Delete old results, once now"


class Periodic(Workload):
    slug = "periodic"
    title = "Periodic"
    summary = "Beat starts the deletion of old results: every night by its entry in the admin, and once now."
    demo: ClassVar[dict[str, Any]] = {}

    def send(self, inputs: dict[str, Any]) -> list[str]:
        """Leave a result that is too old, and ask beat to run the deletion once. Beat chooses the task's id."""
        now = timezone.now()
        old = TaskResult.objects.create(task_id=f"old-{now.timestamp()}", task_name="an old task", status="SUCCESS")
        long_ago = now - timedelta(days=settings.RESULTS_KEEP_DAYS + 1)
        TaskResult.objects.filter(pk=old.pk).update(date_done=long_ago, date_created=long_ago)
        inputs["old"] = old.task_id
        every_second, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
        PeriodicTask.objects.update_or_create(
            name=NAME,
            defaults={
                "task": delete_old_results.name,
                "interval": every_second,
                "one_off": True,
                "enabled": True,
                "last_run_at": None,
                "total_run_count": 0,
            },
        )
        return []

    def tasks(self, run: Run) -> Iterator[QuerySet[TaskResult]]:
        """The first that beat started after the run; the next one belongs to a later run."""
        after = TaskResult.objects.filter(periodic_task_name=NAME, date_created__gte=run.started_at)
        yield TaskResult.objects.filter(pk__in=after.order_by("date_created").values("pk")[:1])

    def total(self, run: Run) -> int:
        return 1

    def judge(self, run: Run) -> Verdict:
        if failure := self.failed(run):
            return failure
        deleted = not TaskResult.objects.filter(task_id=run.inputs["old"]).exists()
        nightly = PeriodicTask.objects.filter(task=delete_old_results.name).exclude(name=NAME).first()
        result = next(tasks.values_list("result", flat=True).first() for tasks in self.tasks(run))
        text = in_words(json.loads(result or "{}"))
        return Verdict(
            deleted and nightly is not None, f"deleted {text}; every night: {nightly.name if nightly else 'no entry'}"
        )
