"""Launch and go away: a queryset feeds launches that never return, and each is gone at its deadline."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db.models import F, Max, QuerySet

from handbell import Launch, launches, states
from tasks_app.models import Entry, Run
from tasks_app.tasks import LAUNCH_SECONDS, call_stuck_partner
from tasks_app.workloads.base import MAX_QUERY_IDS, Verdict, Workload, batched

MAX_LATE_SECONDS = 2.0  # on a machine that does other things, too


class Launches(Workload):
    slug = "launches"
    title = "Launch and go away"
    summary = (
        "A query feeds launches of code that hangs, each in a process of its own. Nobody waits; each is dead at its "
        "deadline of two seconds, with everything it has started."
    )
    demo = {"limit": 8}

    def send(self, inputs: dict[str, Any]) -> list[str]:
        entries = Entry.objects.filter(live=True)[: inputs["limit"]]
        ids = list(call_stuck_partner.launch_many(entries.iterator()).ids)
        if not ids:
            raise ValueError("There is no live entry to launch for. Add one in the admin, under Entries.")
        return ids

    def operations(self, run: Run) -> Iterator[QuerySet[Any]]:
        for ids in batched(run.task_ids, MAX_QUERY_IDS):
            yield Launch.objects.filter(task_id__in=ids)

    def judge(self, run: Run) -> Verdict:
        """All were ended at their deadline, none much later than that, and nothing is left of any."""
        timed_out, left, slowest = 0, 0, timedelta()
        for rows in self.operations(run):
            timed_out += rows.filter(status=states.TIMED_OUT).count()
            left += launches.survivors(rows)
            longest = rows.aggregate(longest=Max(F("finished_at") - F("started_at")))["longest"]
            slowest = max(slowest, longest or slowest)
        total, seconds = len(run.task_ids), slowest.total_seconds()
        return Verdict(
            timed_out == total and not left and seconds < LAUNCH_SECONDS + MAX_LATE_SECONDS,
            f"{timed_out} of {total} ended at the deadline of {LAUNCH_SECONDS} s, the last after {seconds:.2f} s; "
            f"{left} still there",
        )
