"""`save`: results written in the transaction that completes their chunk; what it refuses fails alone."""

import pytest
from django.db import InterfaceError, OperationalError, connection

from handbell import Job, over
from handbell.parallel.complete import complete_chunk
from handbell.parallel.parts import MAX_PART_CALLS
from tasks_app.models import Score
from tests.jobs import claim_first_chunk, outcome_of, pick, run_jobs, store
from tests.unit.conftest import Sent

pytestmark = pytest.mark.django_db(transaction=True)


def store_small(results: list[int]) -> None:
    store(results)
    if max(results) > 90:
        raise OverflowError("too large to store")


def test_save_writes_each_result_once() -> None:
    job = over(range(100)).map(pick).save(store).start(chunk_size=9)
    run_jobs()

    assert sorted(Score.objects.values_list("value", flat=True)) == list(range(100))
    assert Job.objects.get(pk=job.pk).status == "succeeded"


def test_what_save_does_not_take_is_found_and_fails_alone() -> None:
    job = over(range(80, 100)).map(pick).save(store_small).start(chunk_size=20)
    run_jobs()
    job.refresh_from_db()

    assert sorted(Score.objects.values_list("value", flat=True)) == list(range(80, 91))
    assert (job.succeeded, job.failed) == (11, 9)
    failures = list(job.failures())
    assert {it["error"] for it in failures} == {"save: OverflowError: too large to store"}
    assert all("in store_small\n    raise OverflowError" in it["traceback"] for it in failures)


def test_a_wrong_statement_in_save_is_the_fault_of_save() -> None:
    job = over(range(3)).map(pick).save(store_wrongly).start(chunk_size=3)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.failed) == ("failed", 3)
    assert "no_such_table" in next(job.failures())["error"]


def test_a_save_that_never_works_is_given_up_soon_and_says_so(sent: Sent) -> None:
    job = over(range(2000)).map(pick).save(refuse).start(chunk_size=2000)
    refused.clear()
    sent()
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.failed) == ("failed", 2000)
    assert {it["error"] for it in job.failures()} == {"save: ValueError: never"}
    assert len(refused) < 2 * MAX_PART_CALLS
    assert len(sent()) <= 2


refused: list[int] = []


def refuse(results: list[int]) -> None:
    refused.append(len(results))
    raise ValueError("never")


def test_a_save_that_refuses_what_it_took_before_is_given_up() -> None:
    job = over(range(10)).map(pick).save(take_all_but_the_last).start(chunk_size=10)
    run_jobs()
    job.refresh_from_db()

    assert (job.status, job.failed, job.succeeded) == ("failed", 10, 0)
    assert not Score.objects.exists()


last: list[int] = []


def take_all_but_the_last(results: list[int]) -> None:
    """Whatever it is given, it does not take the last one."""
    store(results)
    if results[0] == 0 and results[-1] + 1 == 10 - len(last):
        last.append(results[-1])
    if last[-1] in results:
        raise ValueError("not this one")


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_database_that_is_away_in_save_is_nobody_s_fault(error: type[Exception], sent: Sent) -> None:
    claimed = claim_first_chunk()
    Job.objects.update(saver=f"{__name__}:store_later")
    claimed.job.refresh_from_db()
    failing.append(error("the connection is closed"))
    with pytest.raises(error, match="the connection is closed"):
        complete_chunk(claimed, outcome_of(claimed), claimed.items())
    assert complete_chunk(claimed, outcome_of(claimed), claimed.items())
    claimed.job.refresh_from_db()
    assert (claimed.job.succeeded, claimed.job.failed) == (8, 0)


failing: list[Exception] = []


def store_later(results: list[int]) -> None:
    if failing:
        raise failing.pop()


def store_wrongly(results: list[int]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO no_such_table VALUES (1)")
