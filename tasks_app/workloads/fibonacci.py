"""Computation by several producers and several workers; the ids are stored and the results fetched by them."""

from typing import Any

from tasks_app.models import Run
from tasks_app.tasks import fibonacci
from tasks_app.workloads.base import Verdict, Workload, in_threads


class Fibonacci(Workload):
    slug = "fibonacci"
    title = "Fibonacci"
    summary = (
        "Ten producers send numbers; routing spreads them over the queues, and every worker that takes those joins in."
    )
    demo = {"n": 20, "count": 1000}
    producers = 10

    def send(self, inputs: dict[str, Any]) -> list[str]:
        """Task i computes fibonacci(i mod (n + 1)), so that small and large ones are mixed."""
        n, count = inputs["n"], inputs["count"]

        def produce(index: int) -> list[str]:
            return [fibonacci.delay(i % (n + 1)).id for i in range(index, count, self.producers)]

        return in_threads(self.producers, produce)

    def judge(self, run: Run) -> Verdict:
        if failure := self.failed(run):
            return failure
        n, count = run.inputs["n"], run.inputs["count"]
        order = [i for index in range(self.producers) for i in range(index, count, self.producers)]
        expected = numbers_up_to(n)
        right = sum(value == expected[i % (n + 1)] for i, value in zip(order, self.results(run), strict=True))
        return Verdict(right == count, f"{right:,} of {count:,} right, by {', '.join(self.workers(run))}")

    def workers(self, run: Run) -> list[str]:
        """The names of the workers that took part."""
        names: set[str | None] = set()
        for tasks in self.tasks(run):
            names.update(tasks.order_by().values_list("worker", flat=True).distinct())
        return sorted(name.partition("@")[0] + "@" for name in names if name)


def numbers_up_to(n: int) -> list[int]:
    """The Fibonacci numbers 0 … n, by addition."""
    numbers = [0, 1]
    while len(numbers) <= n:
        numbers.append(numbers[-1] + numbers[-2])
    return numbers[: n + 1]
