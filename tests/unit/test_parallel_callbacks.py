"""Callbacks of jobs: any signature, enqueued exactly once in the transaction that ends the job."""

from typing import Any

import pytest
from celery import chain

from handbell import over
from handbell.parallel.doorbell import WORK
from handbell.parallel.finish import finish_if_done
from tasks_app.tasks import increment_value
from tests.jobs import add, note, pick, run_jobs
from tests.unit.conftest import Sent

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(("items", "called"), [([1, 2], ["done", "well"]), ([1, "raise"], ["badly", "done"])])
def test_callbacks_start_once_with_the_id_of_the_job(sent: Sent, items: list[Any], called: list[str]) -> None:
    job = over(items).map(pick).start(on_success=note.s("well"), on_failure=note.s("badly"), on_complete=note.s("done"))
    run_jobs()
    finish_if_done(job.pk)

    messages = [message for message in sent() if message.task != WORK]
    assert sorted(message.args[1] for message in messages) == called
    assert {message.args[0] for message in messages} == {job.pk}


@pytest.mark.parametrize(
    ("signature", "sent_as"),
    [
        (note.s("mine").set(queue="io", priority=9), ("io", note.name, 9)),
        (chain(note.s(), note.si(2)), ("cpu", note.name, 5)),
    ],
)
def test_a_callback_is_any_signature_with_its_options(
    sent: Sent, signature: Any, sent_as: tuple[str, str, int]
) -> None:
    job = over(range(2)).map(pick).start(on_complete=signature)
    run_jobs()

    (message,) = [message for message in sent() if message.task != WORK]
    assert (message.queue, message.task, message.priority) == sent_as
    assert message.args[0] == job.pk


def test_a_callback_that_goes_without_the_job_does_not_get_its_id(sent: Sent) -> None:
    over(range(2)).map(pick).start(on_complete=note.si(7))
    run_jobs()

    assert [message.args for message in sent() if message.task != WORK] == [[7]]


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("on_success", {"task": "gone.task"}, "on_success: UnknownTask: This deployment has no task called gone.task."),
        ("on_complete", {"args": [2, 3]}, "on_complete: TypeError: "),
    ],
)
def test_a_callback_that_is_gone_or_refused_is_said_and_the_results_are_kept(
    sent: Sent, kind: str, changed: dict[str, Any], said: str
) -> None:
    job = over(range(2)).map(pick).start(on_success=note.s(), on_complete=increment_value.s())
    job.callbacks[kind] |= changed  # another version of the code was deployed after the start
    job.save(update_fields=["callbacks"])
    run_jobs()
    job.refresh_from_db()

    assert (job.status, list(job.results())) == ("succeeded", [0, 1])
    assert job.error.startswith(said)


def test_a_message_that_cannot_be_sent_keeps_no_other_callback_from_being_sent(sent: Sent) -> None:
    nowhere = note.s("first").set(queue="nowhere")
    job = over(range(2)).map(pick).start(on_success=nowhere, on_complete=note.s("last"))
    run_jobs()

    assert [message.args for message in sent() if message.task != WORK] == [[job.pk, "last"]]


def test_an_empty_source_succeeds_at_once(sent: Sent) -> None:
    job = over([]).map(pick).reduce(add).start(on_complete=note.s())

    assert (job.status, job.value) == ("succeeded", None)
    assert [message.task for message in sent()] == [note.name]
