"""What each task does, in this process."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.utils import timezone
from django_celery_results.models import GroupResult, TaskResult

from handbell import retention
from tasks_app import tasks
from tasks_app.fetch_guard import FetchRefused
from tasks_app.models import Entry, PlainCounter, Run, Score
from tests.unit.conftest import Server, page


def test_fibonacci_numbers_are_right() -> None:
    assert [tasks.fibonacci(n) for n in range(11)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55]
    assert tasks.fibonacci(20) == 6765


def test_collatz_steps_are_right() -> None:
    assert [tasks.collatz_steps(n) for n in range(1, 11)] == [0, 1, 7, 2, 5, 8, 16, 3, 19, 6]
    assert tasks.score(27) == 111


@pytest.mark.django_db
def test_a_chunk_is_saved_and_what_was_there_is_replaced() -> None:
    Score.objects.create(item=27, value=1)

    assert tasks.score_chunk([1, 27, 97]) == 3
    assert dict(Score.objects.values_list("item", "value")) == {1: 0, 27: 111, 97: 118}


def test_counts_of_chunks_are_summed_up() -> None:
    assert tasks.summarize([3, 3, 1]) == {"chunks": 3, "items": 7}
    assert tasks.summarize([]) == {"chunks": 0, "items": 0}


@pytest.mark.django_db
def test_the_plain_counter_starts_at_zero_and_is_read_as_written() -> None:
    assert tasks.increment_plain("visits") == 1
    assert tasks.increment_plain("visits", by=5) == 6
    assert tasks.increment_plain("other") == 1
    assert tasks.read_plain("visits") == 6
    with pytest.raises(PlainCounter.DoesNotExist):
        tasks.read_plain("missing")


def test_a_page_is_scraped(serve: Callable[..., Server], settings: LazySettings) -> None:
    server = serve(page("If this, then that."))
    with pytest.raises(FetchRefused):
        tasks.scrape_url(server.url())
    settings.FETCH_ALLOWED_HOSTS = [server.address]

    assert tasks.scrape_url(server.url()) == "If this, then that."


def test_words_are_counted_whole_and_in_any_case() -> None:
    text = "If, if; <b>IF</b> elif iffy if\nif2 - notif"

    assert tasks.find_frequency(text, ["if", "then"]) == {"if": 5, "then": 0}


def test_frequencies_are_added_up() -> None:
    assert tasks.aggregate_results([{"a": 1, "b": 0}, {"a": 2, "b": 0}]) == {"a": 3, "b": 0}
    assert tasks.aggregate_results([]) == {}


@pytest.mark.django_db
def test_a_visit_is_counted_and_the_entry_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.setattr(tasks, "slow_call", calls.append)
    entry = Entry.objects.create(title="x", body="word " * 115)

    assert tasks.update_metrics(entry.pk) == {"words": 115, "reading_seconds": 30}
    tasks.update_metrics(entry.pk)
    entry.refresh_from_db()
    assert (entry.visits, entry.words, entry.reading_seconds) == (2, 115, 30)
    assert entry.measured_at is not None
    assert sum(calls) > 2


@pytest.mark.django_db
def test_a_visit_to_an_entry_that_is_gone_fails() -> None:
    with pytest.raises(Entry.DoesNotExist):
        tasks.update_metrics(0)


def test_code_that_hangs_has_a_deadline() -> None:
    assert tasks.call_stuck_partner.timeout == tasks.LAUNCH_SECONDS == 2


@pytest.mark.django_db
def test_old_results_are_deleted_over_the_border_of_a_batch_and_young_ones_stay(settings: LazySettings) -> None:
    settings.RESULTS_KEEP_DAYS = 3
    now = timezone.now()
    old, young = now - timedelta(days=3, minutes=1), now - timedelta(days=3) + timedelta(minutes=1)
    assert 2 * retention.MAX_TRANSACTION_ROWS < 2500 < 3 * retention.MAX_TRANSACTION_ROWS
    TaskResult.objects.bulk_create(TaskResult(task_id=f"task-{number}", status="SUCCESS") for number in range(2510))
    GroupResult.objects.bulk_create(GroupResult(group_id=f"group-{number}") for number in range(4))
    Run.objects.bulk_create(Run(workload="serial") for number in range(6))
    first_tasks = [f"task-{number}" for number in range(2500)]
    TaskResult.objects.update(date_done=young)
    TaskResult.objects.filter(task_id__in=first_tasks).update(date_done=old)
    GroupResult.objects.update(date_done=young)
    GroupResult.objects.filter(group_id__in=["group-0", "group-1"]).update(date_done=old)
    Run.objects.update(started_at=young)
    Run.objects.filter(pk__in=list(Run.objects.values_list("pk", flat=True)[:5])).update(started_at=old)

    deleted = tasks.delete_old_results()

    assert (deleted["task results"], deleted["group results"], deleted["runs"]) == (2500, 2, 5)
    assert sorted(TaskResult.objects.values_list("task_id", flat=True)) == sorted(
        f"task-{n}" for n in range(2500, 2510)
    )
    assert (GroupResult.objects.count(), Run.objects.count()) == (2, 1)
    assert set(tasks.delete_old_results().values()) == {0}


@pytest.mark.django_db
def test_rows_are_deleted_in_batches(
    django_assert_num_queries: Callable[..., AbstractContextManager[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_TRANSACTION_ROWS", 2)
    Score.objects.bulk_create(Score(item=item, value=0) for item in range(5))

    with django_assert_num_queries(4 + 3):  # four looks, of which three find rows to delete
        assert retention.delete_in_batches(Score.objects.filter(item__lt=5)) == 5
    assert retention.delete_in_batches(Score.objects.all()) == 0


def test_what_tasks_return_can_be_written_as_json() -> None:
    for value in (tasks.summarize([1]), tasks.find_frequency("a", ["a"]), tasks.aggregate_results([{"a": 1}])):
        assert json.loads(json.dumps(value)) == value
