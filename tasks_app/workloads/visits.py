"""A page is visited: the visit triggers slow work and does not wait for it."""

import time
from typing import Any

from tasks_app.models import Entry, Run
from tasks_app.tasks import update_metrics
from tasks_app.workloads.base import Verdict, Workload

MAX_ANSWER_MS = 1000


class Visits(Workload):
    slug = "visits"
    title = "Visit"
    summary = (
        "An entry's page triggers over a second of slow calls, answers at once, and shows the numbers when they arrive."
    )
    demo = {"visits": 4}

    def send(self, inputs: dict[str, Any]) -> list[str]:
        entries = list(Entry.objects.filter(live=True)[: inputs["visits"]])
        if not entries:
            raise ValueError("There is no live entry to visit. Add one in the admin, under Entries.")
        started = time.perf_counter()
        ids = [visit(entries[i % len(entries)].pk) for i in range(inputs["visits"])]
        inputs["answer_ms"] = round(1000 * (time.perf_counter() - started) / len(ids), 1)
        return ids

    def judge(self, run: Run) -> Verdict:
        if failure := self.failed(run):
            return failure
        results = self.results(run)
        ok = len(results) == run.inputs["visits"] and all(result["words"] > 0 for result in results)
        answer = run.inputs["answer_ms"]
        return Verdict(
            ok and answer < MAX_ANSWER_MS, f"{len(results)} visits measured; each was answered in {answer} ms"
        )


def visit(entry_id: int) -> str:
    """What the page does: trigger the work, and answer."""
    return str(update_metrics.delay(entry_id).id)
