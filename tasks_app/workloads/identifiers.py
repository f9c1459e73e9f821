"""One list of ids, three ways: a task per id, chunks of ids, and a chord that saves each chunk and sums up."""

from typing import Any

from celery import chord, group

from tasks_app.models import Run, Score
from tasks_app.tasks import collatz_steps, score, score_chunk, summarize
from tasks_app.workloads.base import Verdict, Workload, batched, ids_of, in_words


class Identifiers(Workload):
    slug = "identifiers"
    title = "A long list of ids"
    summary = (
        "The same ids as a group (a task each), as chunks, and as a chord that saves each chunk with one bulk write."
    )
    demo = {"count": 500, "chunk": 100}

    def send(self, inputs: dict[str, Any]) -> list[str]:
        ids, size = range(1, inputs["count"] + 1), inputs["chunk"]
        one_each = group(score.s(item) for item in ids)()
        in_chunks = score.chunks(zip(ids, strict=True), size).group()()
        saved = chord((score_chunk.s(part) for part in batched(ids, size)), summarize.s())()
        return [*ids_of(one_each), *ids_of(in_chunks), *ids_of(saved)]

    def judge(self, run: Run) -> Verdict:
        if failure := self.failed(run):
            return failure
        count, size = run.inputs["count"], run.inputs["chunk"]
        chunks = -(-count // size)
        results = self.results(run)
        expected = [collatz_steps(item) for item in range(1, count + 1)]
        rows = dict(Score.objects.filter(item__range=(1, count)).values_list("item", "value"))
        ok = (
            results[:count] == expected
            and [value for part in results[count : count + chunks] for value in part] == expected
            and [rows.get(item) for item in range(1, count + 1)] == expected
            and results[-1] == {"chunks": chunks, "items": count}
        )
        return Verdict(ok, f"{count:,} ids three ways; {len(rows):,} rows saved; summary: {in_words(results[-1])}")
