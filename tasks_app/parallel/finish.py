"""The end of a chunk, and of the job: results, counts, `save` and callbacks, all in one transaction."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from celery import current_app
from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from tasks_app import states
from tasks_app.errors import ItemFailed, UnknownTask
from tasks_app.models import Chunk, Failure, Job
from tasks_app.models.job_handle import encode
from tasks_app.parallel.claim import Claim, halve
from tasks_app.parallel.forked import Forked
from tasks_app.parallel.references import find
from tasks_app.parallel.run import Failed, Outcome, Stop, as_json, describe

MOST_CHARACTERS = 16_000_000  # in the results of a chunk, about: they are in memory at once
SMOOTHING = 0.6  # the weight of the newest chunk in the seconds per item
FOLDED_AT_ONCE = 1_000  # partial results in one call of the reducer
MOST_FAILURES_KEPT = 1_000  # with their tracebacks; the count is exact all the same
MOST_ITEM = 2_000  # characters of an item in its failure
logger = logging.getLogger(__name__)


class _Refused(Exception):
    """`save` or `reduce` did not take the results of a chunk; the cause says why."""


def complete(claim: Claim, outcome: Outcome, items: Sequence[Any]) -> bool:
    """Write what came of the `items` of a chunk; False if the claim has gone to someone else meanwhile.

    Results that `save` or `reduce` do not take are tried in two halves, and so on, until the faulty item is found.
    """
    try:
        with transaction.atomic():
            return _complete(claim, outcome, items)
    except _Refused as refused:
        what, cause = str(refused), refused.__cause__
    assert cause is not None
    if _is_away(cause):
        raise cause  # not the fault of an item
    with transaction.atomic():
        if not _ours(claim).select_for_update().exists():
            return False
        if claim.chunk.only is None and claim.chunk.count > 1:
            halve(claim.chunk, careful=claim.chunk.careful)
            _ours(claim).update(status=states.QUEUED)
            claim.job.ring()
            return True
        _, line, trace = describe(0, cause)
        failed = [Failed(number, f"{what}: {line}", trace) for number in range(len(items))]
        return _complete(claim, Outcome([None] * len(items), failed, outcome.seconds), items)


def _is_away(error: BaseException) -> bool:
    """Whether the database did not answer. SQLite says the same of a wrong statement, but with a code of its own."""
    wrong = getattr(error.__cause__, "sqlite_errorname", "") == "SQLITE_ERROR"
    return isinstance(error, OperationalError | InterfaceError) and not wrong


def _ours(claim: Claim) -> Any:
    return Chunk.objects.filter(pk=claim.chunk.pk, attempts=claim.attempt, status=states.RUNNING)


def _complete(claim: Claim, outcome: Outcome, items: Sequence[Any]) -> bool:
    chunk, job = claim.chunk, claim.job
    text, done = as_json(outcome), len(outcome.results)
    failed = {it.offset for it in outcome.failed}
    right = [result for offset, result in enumerate(outcome.results) if offset not in failed]
    change: dict[str, Any] = {"only": None, "owner_until": None, "finished_at": timezone.now()}
    if chunk.only is None:
        offsets: Sequence[int] = range(chunk.count)
        unrun = 0
        change |= {"count": done, "results": text, "wrong": sorted(failed)}
        to_fold = right
    else:
        offsets, unrun = chunk.only, len(chunk.only) - done
        wrong = sorted(offsets[number] for number in range(len(offsets)) if number in failed or number >= done)
        change |= {"wrong": wrong, "results": _merged(chunk, outcome.results)}
        to_fold = _to_fold_again(chunk, job, change["results"], wrong, right)
    if job.reducer and right:
        with _refusing("reduce"):
            change["partial"] = encode(_reducer(job, careful=chunk.careful)(to_fold))
    if not job.keep_results:
        change["results"] = None
    if not _ours(claim).update(status=states.SUCCEEDED, seconds=outcome.seconds, **change):
        return False
    if done < len(offsets) and chunk.only is None:
        job.chunks.create(first=chunk.first + done, count=chunk.count - done, careful=chunk.careful)
    if job.saver and right:
        with _refusing("save"), transaction.atomic():
            find(job.saver)(right)
    _keep_failures(claim, outcome.failed, offsets, items)
    _count(claim, outcome, len(right), len(failed) + unrun, len(text))
    return True


def _reducer(job: Job, *, careful: bool) -> Callable[[list[Any]], Any]:
    """The function that folds; with care, in a process of its own, for it may kill the one it runs in."""
    reduce = find(job.reducer)
    if not careful:
        return reduce

    def in_a_child(values: list[Any]) -> Any:
        outcome = Forked(reduce, [values], Stop(), 1, None).run()
        if outcome.failed:
            raise ItemFailed(outcome.failed[0].error)
        return outcome.results[0]

    return in_a_child


class _refusing:  # noqa: N801  (reads as a sentence)
    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception | SystemExit):
            raise _Refused(self.what) from error


def _merged(chunk: Chunk, fresh: Sequence[Any]) -> str | None:
    """The results of a retried chunk, with the fresh ones in their places."""
    if chunk.results is None:
        return None
    results = json.loads(chunk.results)
    for offset, result in zip(chunk.only or (), fresh, strict=False):
        results[offset] = result
    return encode(results)


def _to_fold_again(chunk: Chunk, job: Job, results: str | None, wrong: list[int], right: list[Any]) -> list[Any]:
    if results is not None:
        left_out = set(wrong)
        return [value for offset, value in enumerate(json.loads(results)) if offset not in left_out]
    return [*([json.loads(chunk.partial)] if chunk.partial is not None else []), *right]


def _keep_failures(claim: Claim, failed: Sequence[Failed], offsets: Sequence[int], items: Sequence[Any]) -> None:
    room = max(0, MOST_FAILURES_KEPT - claim.job.failure_rows.count()) if failed else 0
    Failure.objects.bulk_create(
        Failure(
            job=claim.job,
            index=claim.chunk.first + offsets[it.offset],
            item=encode(items[it.offset])[:MOST_ITEM],
            error=it.error,
            traceback=it.traceback,
        )
        for it in failed[:room]
    )


def _count(claim: Claim, outcome: Outcome, succeeded: int, failed: int, characters: int) -> None:
    job = Job.objects.select_for_update().get(pk=claim.job.pk)
    job.succeeded += succeeded
    job.failed += failed
    if outcome.results:
        # An item with a large result counts as a slow one, so that chunks get as short.
        pace = max(outcome.seconds, job.chunk_seconds * characters / MOST_CHARACTERS) / len(outcome.results)
        before = pace if job.seconds_per_item is None else job.seconds_per_item
        job.seconds_per_item = SMOOTHING * pace + (1 - SMOOTHING) * before
    _finish_if_done(job, careful=claim.chunk.careful)
    job.save()


def finish_if_done(job_id: int) -> None:
    """End the job if its source is complete and nothing is left to do. It may have ended before, or be deleted."""
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id).first()
        if job is not None and _finish_if_done(job, careful=True):
            job.save()


def _finish_if_done(job: Job, *, careful: bool) -> bool:
    """In the transaction that holds the job's lock: so it happens once, whoever comes last. Whether it has."""
    if job.status not in {states.QUEUED, states.RUNNING}:
        return False
    if job.max_failures is not None and job.failed > job.max_failures:
        job.error = f"stopped: {job.failed:,} items failed, and max_failures is {job.max_failures:,}"
    elif job.source_state != Job.COMPLETE or job.done < job.total:
        return False
    elif job.reducer:
        _fold(job, careful=careful)
    job.status = states.FAILED if job.failed or job.error else states.SUCCEEDED
    job.finished_at = timezone.now()
    job.started_at = job.started_at or job.finished_at
    job.runs += 1
    _call_back(job)
    return True


def _fold(job: Job, *, careful: bool) -> None:
    """The value of all partial results, in the order of the items, some at a time."""
    partials = job.chunks.filter(partial__isnull=False).order_by("first").values_list("partial", flat=True)
    values = (json.loads(text or "null") for text in partials.iterator(chunk_size=100))
    try:
        with transaction.atomic():
            job.value_json = _folded(_reducer(job, careful=careful), values)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it is the user's function; the job says so)
        job.error = f"reduce: {describe(0, error).error}"


def _folded(reduce: Callable[[list[Any]], Any], partials: Iterable[Any]) -> str | None:
    remaining: Iterator[Any] = iter(partials)
    part = list(islice(remaining, FOLDED_AT_ONCE))
    if not part:
        return None
    value = part[0] if len(part) == 1 else reduce(part)
    while part := list(islice(remaining, FOLDED_AT_ONCE)):
        value = reduce([value, *part])
    return encode(value)


def _call_back(job: Job) -> None:
    """Start the callbacks. One that cannot be started is no reason to lose what the job has done."""
    for kind in ("on_failure" if job.status == states.FAILED else "on_success", "on_complete"):
        if kind in job.callbacks:
            try:
                with transaction.atomic():
                    _start(job, kind)
            except Exception as error:
                if _is_away(error):
                    raise
                logger.exception("Job %s: its %s was not started.", job.pk, kind)
                job.error = job.error or f"{kind}: {describe(0, error).error}"


def _start(job: Job, kind: str) -> None:
    """Call a callback in this transaction, so it is called exactly once; its id follows from the job, too."""
    signature, task_id = current_app.signature(job.callbacks[kind]), f"job-{job.pk}-{job.runs}-{kind}"
    if str(signature.task) not in current_app.tasks:
        raise UnknownTask(f"This deployment has no task called {signature.task}.")
    signature.apply_async((job.pk,), task_id=task_id)
