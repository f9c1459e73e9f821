"""Launch and go away: a queryset feeds tasks that never return, and each is gone at its deadline."""

from datetime import timedelta
from typing import Any

from django.db.models import F, Max

from tasks_app.models import Entry, Run
from tasks_app.tasks import LAUNCH_SECONDS, call_stuck_partner
from tasks_app.workloads.base import Verdict, Workload

GRACE_SECONDS = 2.0


class Launches(Workload):
    slug = "launches"
    title = "Launch and go away"
    summary = "A query feeds launches of code that hangs. Nobody waits; each is ended at its deadline of two seconds."
    demo = {"limit": 8}

    def send(self, inputs: dict[str, Any]) -> list[str]:
        entries = Entry.objects.filter(live=True).values_list("pk", flat=True)[: inputs["limit"]]
        ids = [str(call_stuck_partner.delay(entry).id) for entry in entries.iterator()]
        if not ids:
            raise ValueError("There is no live entry to launch for. Add one in the admin, under Entries.")
        return ids

    def judge(self, run: Run) -> Verdict:
        """All were ended by their time limit, none much later than that."""
        ended = self.progress(run).failed
        timed_out, slowest = 0, timedelta()
        for tasks in self.tasks(run):
            timed_out += tasks.filter(status="FAILURE", result__contains="TimeLimitExceeded").count()
            longest = tasks.aggregate(longest=Max(F("date_done") - F("date_started")))["longest"]
            slowest = max(slowest, longest or slowest)
        total = len(run.task_ids)
        seconds = slowest.total_seconds()
        ok = ended == timed_out == total and seconds < LAUNCH_SECONDS + GRACE_SECONDS
        return Verdict(
            ok, f"{timed_out} of {total} ended at the deadline of {LAUNCH_SECONDS} s, the last after {seconds:.2f} s"
        )
