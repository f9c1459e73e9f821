"""Shared state without a lock, both ways: operations in a lane, and plain tasks on a queue with one worker."""

from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from handbell import Operation
from tasks_app.models import Counter, PlainCounter, Run
from tasks_app.tasks import increment_plain, increment_value, read_plain, read_value
from tasks_app.workloads.base import MAX_QUERY_IDS, Verdict, Workload, batched, in_threads


class SerialState(Workload):
    slug = "serial"
    title = "Serial state"
    summary = (
        "Threads increment a counter at the same time: once in a lane, which commits many changes together, and once "
        "on the plain serial queue. No lock anywhere, and the values are read while they change."
    )
    demo = {"name": "demo", "threads": 10, "each": 200}

    def send(self, inputs: dict[str, Any]) -> list[str]:
        """Half of the ids are operations, the other half plain tasks; the last of each half is a read in line."""
        name, threads, each = inputs["name"], inputs["threads"], inputs["each"]
        in_lane = in_threads(threads, lambda _: [increment_value.delay(name).id for _ in range(each)])
        in_lane.append(read_value.delay(name).id)
        on_queue = in_threads(threads, lambda _: [increment_plain.delay(name).id for _ in range(each)])
        return [*in_lane, *on_queue, read_plain.delay(name).id]

    def operations(self, run: Run) -> Iterator[QuerySet[Operation]]:
        for ids in batched(run.task_ids[: len(run.task_ids) // 2], MAX_QUERY_IDS):
            yield Operation.objects.filter(task_id__in=ids)

    def live(self, run: Run) -> list[tuple[str, str]]:
        name = run.inputs["name"]
        lane = Counter.objects.filter(pk=name).values_list("value", flat=True).first() or 0
        queue = PlainCounter.objects.filter(pk=name).values_list("value", flat=True).first() or 0
        return [("in its lane", f"{lane:,}"), ("on the queue", f"{queue:,}")]

    def judge(self, run: Run) -> Verdict:
        """Each increment returned another value, so none was lost; the read came after all of them. Both ways."""
        if failure := self.failed(run):
            return failure
        results, expected = self.results(run), run.inputs["threads"] * run.inputs["each"]
        half = len(results) // 2
        lane, queue = results[:half], results[half:]
        ok = all(_exact(values, expected) for values in (lane, queue))
        counted = f"{len(set(lane[:-1])):,} and {len(set(queue[:-1])):,} of {expected:,} increments counted"
        return Verdict(ok, f"{counted}, then read as {lane[-1]:,} and {queue[-1]:,}")


def _exact(values: list[int], expected: int) -> bool:
    *written, read = values
    return len(set(written)) == expected == len(written) and read >= max(written)
