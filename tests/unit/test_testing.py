"""`handbell.testing`: everything that waits is done in the test's own process and transaction, and nothing is sent."""

import threading
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import chain, chord, current_app, group, shared_task
from django.db import transaction
from django.utils import timezone
from kombu.pools import ProducerPool

from handbell import Job, UnknownTask, isolated_task, over, testing
from handbell.common import broker
from handbell.embedded.broker import EmbeddedBroker
from handbell.models import Call
from handbell.plain import outbox
from handbell.pytest_plugin import handbell  # noqa: F401  (where the package is installed, pytest finds it by itself)
from tasks_app.models import Counter, Entry, Score
from tasks_app.tasks import fibonacci, increment_value
from tests import launches, plain

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_no_broker")]


@pytest.fixture
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    for used, method in ((EmbeddedBroker, "attach"), (ProducerPool, "acquire")):
        monkeypatch.setattr(used, method, lambda *args, **options: pytest.fail("a broker was asked for"))


@isolated_task(timeout=5)
def leaves(code: int) -> None:
    raise SystemExit(code)


@isolated_task(timeout=5)
def raises(text: str) -> None:
    raise ValueError(text)


@shared_task(queue="cpu")
def starts_a_job(count: int) -> int:
    over(range(count)).map(double).start("cpu")
    increment_value.delay("jobs")
    return count


@shared_task
def double(item: int) -> int:
    return 2 * item


@shared_task
def save_thread(item: int) -> int:
    """Writes with the connection of its thread; needs the test's transaction."""
    Entry.objects.get(title="seen in the test")
    Score.objects.create(item=item, value=threading.get_ident() % 1000)
    return threading.get_ident()


@shared_task
def slow(item: int) -> int:
    """Longer than a worker waits before it renews its claim."""
    threading.Event().wait(0.8)
    return item


# --- One kind after the other -----------------------------------------------------------------------------------------


def test_a_plain_call_runs_and_has_its_result(handbell: ModuleType) -> None:  # noqa: F811
    result: Any = fibonacci.delay(10)
    assert result.state == "PENDING"

    assert handbell.run_all() == 1

    assert (result.state, result.get(), result.info) == ("SUCCESS", 55, 55)
    assert handbell.run_all() == Call.objects.count() == 0


def test_an_error_is_recorded_and_raised_by_get(handbell: ModuleType) -> None:  # noqa: F811
    result = plain.fail.delay("because")

    handbell.run_calls()

    with pytest.raises(ValueError, match="because"):
        result.get()


def test_canvas_and_retries_run_to_their_end(handbell: ModuleType, tmp_path: Path) -> None:  # noqa: F811
    results = [
        chain(plain.add.s(1, 2), plain.add.s(3)).delay(),
        group(plain.add.s(number, 1) for number in range(3)).delay(),
        chord((plain.add.s(number, 1) for number in range(3)), plain.total.s()).delay(),
        plain.replaces_itself.delay(4),
        plain.third_time.delay(str(tmp_path / "runs")),
    ]

    handbell.run_all()

    assert [result.get() for result in results] == [6, [1, 2, 3], 6, 8, 2]


def test_calls_that_share_a_doorbell_run_too(handbell: ModuleType) -> None:  # noqa: F811
    results = [plain.quick.delay(number) for number in range(3)]

    assert handbell.run_all() == 3

    assert [result.get() for result in results] == [1, 2, 3]


@pytest.mark.parametrize("transactional", [False, True])
def test_a_call_without_a_result_runs_too(
    transactional: bool,
    handbell: ModuleType,  # noqa: F811
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    request.getfixturevalue("transactional_db" if transactional else "db")
    path = tmp_path / "ran"
    with pytest.raises(KeyError), transaction.atomic():
        plain.bare.delay(str(path))
        raise KeyError
    plain.bare.delay(str(path))

    assert handbell.run_all() == 1

    assert path.read_text() == "ran\n"
    assert handbell.run_all() == 0


def test_what_is_meant_for_another_program_is_left_alone(handbell: ModuleType) -> None:  # noqa: F811
    current_app.send_task("of.another.program")

    assert handbell.run_all() == 0


def test_a_call_whose_task_is_gone_is_an_error(
    handbell: ModuleType,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain.add.delay(1, 1)
    monkeypatch.delitem(current_app.tasks, plain.add.name)

    with pytest.raises(UnknownTask, match=r"no task called tests\.plain\.add"):
        handbell.run_all()


def test_a_call_that_was_revoked_does_not_run(handbell: ModuleType) -> None:  # noqa: F811
    result: Any = plain.add.delay(1, 1)
    current_app.backend.mark_as_revoked(result.id, "not any more")

    assert handbell.run_all() == 0

    assert result.state == "REVOKED"


def test_what_is_due_later_waits_unless_it_is_asked_for(handbell: ModuleType) -> None:  # noqa: F811
    later = timezone.now() + timedelta(hours=1)
    result = plain.add.apply_async((1, 1), eta=later)
    plain.bare.apply_async(("/dev/null",), countdown=3600)
    increment_value.apply_async(("visits",), eta=later)

    assert handbell.run_all() == 0
    assert handbell.run_all(scheduled=True) == 3

    assert (result.get(), Counter.objects.get().value) == (2, 1)


def test_operations_are_applied_in_order(handbell: ModuleType) -> None:  # noqa: F811
    results = [increment_value.delay("visits", by=by) for by in (1, 2, 3)]

    assert handbell.run_operations() == 3

    assert [result.get() for result in results] == [1, 3, 6]


def test_a_job_runs_in_the_tests_own_thread_and_transaction(handbell: ModuleType) -> None:  # noqa: F811
    Entry.objects.create(title="seen in the test", body="")
    job = over(range(40)).map(save_thread).start("io", threads=16)

    assert handbell.run_all() > 0

    job.refresh_from_db()
    assert (job.status, set(job.results())) == ("succeeded", {threading.get_ident()})
    assert Score.objects.count() == 40


def test_items_that_take_long_are_run_nevertheless(handbell: ModuleType) -> None:  # noqa: F811
    job = over(range(3)).map(slow).start("io", chunk_size=3, item_timeout=5)

    assert handbell.run_jobs() == 1

    assert list(job.results()) == [0, 1, 2]


def test_launches_run_here(handbell: ModuleType) -> None:  # noqa: F811
    returned, left, raised = launches.nothing.delay([1]), leaves.launch(3), raises.delay("because")

    assert handbell.run_launches() == 3

    left.refresh_from_db()
    assert (returned.get(), left.status, left.exit_code) == ([1], "failed", 3)
    with pytest.raises(ValueError, match="because"):
        raised.get()


# --- All of them ------------------------------------------------------------------------------------------------------


def test_work_of_one_kind_that_enqueues_another_is_done(handbell: ModuleType) -> None:  # noqa: F811
    result = starts_a_job.delay(5)

    assert handbell.run_all() >= 3

    assert (result.get(), Counter.objects.get().value, list(Job.objects.get().results())) == (5, 1, [0, 2, 4, 6, 8])


def test_without_the_fixture_the_context_manager_does_the_same(transactional_db: None) -> None:
    with testing.without_broker():
        plain.add.delay(1, 1)
        increment_value.delay("visits")
        fibonacci.apply_async((3,), ignore_result=True)
        assert testing.run_all() == 3


def test_afterwards_everything_is_sent_again(handbell: ModuleType) -> None:  # noqa: F811
    with testing.without_broker():
        assert broker.publish(lambda producer: None, "nothing") is False
    assert outbox.publish_unrecorded.__module__ == "handbell.testing"  # the fixture's is still there
