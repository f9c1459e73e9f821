"""The end of a chord: all parts have their results, so its body is called with them."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celery import maybe_signature, states
from celery.exceptions import ChordError
from celery.result import GroupResult
from django.db import DEFAULT_DB_ALIAS, transaction
from django_celery_results.models import ChordCounter, TaskResult  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from handbell.celery.backend import DatabaseBackend

MAX_RESULTS_READ = 500  # at a time


def call_body(backend: "DatabaseBackend", counter: ChordCounter, chord: Any) -> None:
    """Call the body with the results of the parts, in their order; if one has failed, the body fails with its error.

    Happens in the transaction in which the last part ends, so exactly once.
    """
    body: Any = maybe_signature(chord, app=backend.app)
    try:
        with transaction.atomic():
            body.delay(_joined(backend, counter.group_result(app=backend.app)))
    except ChordError as error:
        backend.chord_error_from_stack(body, error)
    except Exception as error:  # noqa: BLE001  (the parts have done their work; the body says what is wrong with it)
        backend.chord_error_from_stack(body, ChordError(f"Callback error: {error!r}"))


def _joined(backend: "DatabaseBackend", results: Any) -> list[Any]:
    """The results of the parts.

    Raises:
        ChordError: a part has failed, or has no result.
    """
    found = dict(_found(backend, [leaf.id for leaf in _leaves(results)]))
    for leaf in _leaves(results):
        if leaf.id not in found:
            raise ChordError(f"Dependency {leaf.id} has no result: a part of a chord must not ignore its result.")
        status, value = found[leaf.id]
        if status != states.SUCCESS:
            cause = value if isinstance(value, BaseException) else None
            raise ChordError(f"Dependency {leaf.id} raised {value!r}") from cause
    return _values(results, found)


def count_parts(results: Any) -> int:
    """How many tasks have to end before a chord's body is called: a part that ends in a group counts as many."""
    return sum(1 for _ in _leaves(results))


def steps_with_results(chain: Iterable[Any]) -> Iterator[Any]:
    """The steps of a chain, and in the place of a group, which has no result of its own, those of its parts."""
    for step in chain:
        if step.get("subtask_type") in {"group", "chain"}:
            yield from steps_with_results(step["kwargs"]["tasks"])
        else:
            yield step


def _leaves(results: Any) -> Iterator[Any]:
    for result in results.results:
        if isinstance(result, GroupResult):
            yield from _leaves(result)
        else:
            yield result


def _values(results: Any, found: dict[str, tuple[str, Any]]) -> list[Any]:
    return [
        _values(result, found) if isinstance(result, GroupResult) else found[result.id][1] for result in results.results
    ]


def _found(backend: "DatabaseBackend", ids: list[str]) -> Iterator[tuple[str, tuple[str, Any]]]:
    for start in range(0, len(ids), MAX_RESULTS_READ):
        rows = TaskResult.objects.using(DEFAULT_DB_ALIAS)  # where the transaction is, not a replica
        for row in rows.filter(task_id__in=ids[start : start + MAX_RESULTS_READ]):
            value = backend.decode_content(row, row.result)
            if row.status in states.EXCEPTION_STATES:
                value = backend.exception_to_python(value)
            yield row.task_id, (row.status, value)
