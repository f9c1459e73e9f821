"""Declaring jobs: what is refused at the call, and where a job runs."""

from collections.abc import Callable
from typing import Any

import pytest

from handbell import Job, over
from tasks_app.tasks import fibonacci, increment_value, scrape_url
from tests.jobs import double, note, pick, plus

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: over("abc"), "iterable, such as a list or a generator, not 'abc'"),
        (lambda: over(5), "iterable, such as a list or a generator, not 5"),  # type: ignore[call-overload]
        (lambda: over(range(3)).start(), "add .map"),
        (lambda: over(range(3)).map(len), "takes a task"),  # type: ignore[call-overload]
        (lambda: over(range(3)).map(increment_value), "whose calls are rows of a ledger"),
        (lambda: over(range(3)).map(plus, {1}), "must be JSON"),  # type: ignore[call-overload]
        (lambda: over(range(3)).map(plus, 1, less=2), "with the item first: .*unexpected"),  # type: ignore[arg-type]
        (lambda: over(range(3)).map(double, 1), "calls tests.jobs.double with"),  # type: ignore[call-overload]
        (lambda: over(range(3)).map(double).reduce(lambda values: 1), "at the top of a module"),
        (lambda: over(range(3)).map(double).save("store"), "at the top of a module"),  # type: ignore[arg-type]
        (lambda: over(range(3)).map(double).start("nowhere"), "There are: serial, high, cpu, io, isolated"),
        (lambda: over(range(3)).map(double).start(chunk_size=0), "chunk_size must be from 1"),
        (lambda: over(range(3)).map(double).start(threads="4"), "threads is a whole number"),  # type: ignore[arg-type]
        (lambda: over(range(3)).map(double).start(priority=10), "priority must be from 0 to 9"),
        (lambda: over(range(3)).map(double).start(on_success=note), "takes a signature"),  # type: ignore[arg-type]
        (lambda: over(range(3)).map(double).start(on_failure=note.s(1, 2)), "with the job's id first"),
        (lambda: over(range(3)).map(double).start(on_failure=note.s({1})), "must be JSON"),
    ],
)
def test_what_is_wrong_is_refused_at_the_call(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        wrong()

    assert not Job.objects.exists()


def test_the_queue_is_the_first_task_s_own() -> None:
    assert over(["x"]).map(scrape_url).map(pick).start().queue == "io"
    assert over([1]).map(fibonacci).start().queue == "cpu"
