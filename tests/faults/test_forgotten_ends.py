"""A database that has lost its last commits says of work that has ended that it still runs. Its owner is alive."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django_celery_results.models import TaskResult

from handbell import Job, Launch, Operation, over
from handbell.models import Call, Chunk
from tests import launches, plain
from tests.faults.tasks import note_and_wait
from tests.plain import SECONDS, lines, until
from tests.system import System

WORKER = ("-Q", "cpu,serial,isolated", "-c", "3", "--include=tests.plain,tests.launches,tests.faults.tasks")


@contextmanager
def forgotten(*found: Callable[[], Any]) -> Iterator[None]:
    """Remember these rows as they are, and put them back when the block has ended."""
    rows = [find() for find in found]
    yield
    with transaction.atomic():
        for row in rows:
            type(row)._default_manager.bulk_create(
                [row],
                update_conflicts=True,
                unique_fields=["pk"],
                update_fields=[field.name for field in row._meta.concrete_fields if not field.primary_key],
            )


def forget_a_call(path: str) -> list[Any]:
    result = plain.take.delay(1, path, "x")
    call = until(lambda: Call.objects.exclude(claimed_by="").first())
    with forgotten(lambda: call, lambda: TaskResult.objects.get(task_id=result.id)):
        until(lambda: not Call.objects.exists())
    until(lambda: not Call.objects.exists())
    return [result.get(timeout=SECONDS), len(lines(path))]


def forget_an_operation(path: str) -> list[Any]:
    note_and_wait.delay("x", path, 1)
    with forgotten(lambda: until(lambda: Operation.objects.filter(status="running").first())):
        until(lambda: Operation.objects.get().status == "succeeded")
    until(lambda: Operation.objects.get().status == "succeeded")
    return ["x", 2 * len(lines(path))]


def forget_a_chunk(path: str) -> list[Any]:
    job = over([1]).map(plain.take, path, "x").start(queue="cpu")
    with forgotten(
        lambda: until(lambda: Chunk.objects.filter(status="running").first()), lambda: Job.objects.get(pk=job.pk)
    ):
        job.wait(SECONDS)
    job.refresh_from_db()
    return [job.wait(SECONDS).result(0), len(lines(path))]


@pytest.mark.parametrize("forget", [forget_a_call, forget_an_operation, forget_a_chunk])
def test_work_whose_end_is_forgotten_runs_again(
    system: System, tmp_path: Path, forget: Callable[[str], list[Any]]
) -> None:
    system.environment["HANDBELL_LEASE_SECONDS"] = "3"
    with system.worker(*WORKER):
        assert system.call(forget, str(tmp_path / "lines")) == ["x", 4]


def forget_a_launch(path: str) -> list[Any]:
    launches.note.launch(path, 600)
    launch = launches.note.launch(path, 1)
    with forgotten(
        lambda: until(lambda: Launch.objects.filter(pk=launch.pk, status="running", pid__isnull=False).first())
    ):
        until(lambda: Launch.objects.get(pk=launch.pk).status == "succeeded")
    until(lambda: Launch.objects.get(pk=launch.pk).status != "running")
    return [Launch.objects.get(pk=launch.pk).reason, len(lines(path))]


def test_a_launch_whose_end_is_forgotten_is_lost(system: System, tmp_path: Path) -> None:
    system.environment["HANDBELL_LEASE_SECONDS"] = "3"
    with system.worker(*WORKER):
        found = system.call(forget_a_launch, str(tmp_path / "lines"))
    assert found == ["lost: the database has forgotten how it ended", 2]
