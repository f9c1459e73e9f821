"""`async def` tasks: they run, fail, retry and are replaced as others do, and use the database as Django's pages do."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from celery import Task, current_app, current_task, shared_task
from celery.exceptions import Ignore
from django.db import connection, transaction
from django_celery_results.models import TaskResult

from handbell import over, status, testing
from handbell.models import Call
from tasks_app.models import Score
from tests import plain

add: Any = plain.add
loops: list[asyncio.AbstractEventLoop] = []


class Running:
    """How many run now, and how many did at most."""

    now = most = 0


pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_broker() -> Any:
    with testing.without_broker():
        yield


@shared_task
async def double(number: int) -> int:
    loops.append(asyncio.get_running_loop())
    await asyncio.sleep(0)
    return 2 * number


@shared_task(bind=True)
async def who_am_i(self: Task[..., Any]) -> list[Any]:
    await asyncio.sleep(0)
    same = await sync_to_async(lambda: current_task.request.id == self.request.id)()
    return [self.request.id, current_task.request.id, self.request.called_directly, same]


@shared_task
async def store_score(item: int) -> int:
    score = await Score.objects.acreate(item=item, value=item)
    await sync_to_async(add.delay)(1, 1)
    await add.adelay(1, 1)
    return await Score.objects.filter(pk=score.pk).acount()


tenant = ContextVar("tenant", default="nobody")


@shared_task
async def factorial(number: int) -> int:
    return number * int(await factorial(number - 1)) if number > 1 else 1


class Base(current_app.Task):  # type: ignore[name-defined,misc]
    abstract = True

    async def run(self, number: int) -> int:
        return number


class Derived(Base):
    name = "tests.unit.test_async_tasks.derived"

    async def run(self, number: int) -> int:
        return 1 + await super().run(number)


derived: Any = current_app.register_task(Derived())


@shared_task
async def change_tenant() -> str:
    before = tenant.get()
    tenant.set("somebody")
    return before


@shared_task(bind=True)
async def go_halfway(self: Any) -> Any:
    await self.aupdate_state(state="HALFWAY", meta={"done": 0.5})
    return (await TaskResult.objects.aget(task_id=self.request.id)).status


@shared_task
async def stop_the_loop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return "went on"


@shared_task
async def is_in_a_transaction() -> bool:
    return await sync_to_async(lambda: connection.in_atomic_block)()


@shared_task
async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("no")


@shared_task
async def cancel_itself() -> None:
    raise asyncio.CancelledError


@shared_task(bind=True, max_retries=3, default_retry_delay=0)
async def retry_twice(self: Task[..., Any]) -> int:
    if self.request.retries < 2:
        raise self.retry()
    return int(self.request.retries)


@shared_task(autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0, bind=True)
async def retried_by_itself(self: Task[..., Any]) -> int:
    if self.request.retries < 2:
        raise ValueError("not yet")
    return int(self.request.retries)


@shared_task(bind=True)
async def replace_itself(self: Any) -> None:
    raise self.replace(double.s(21))


@shared_task
async def give_up() -> None:
    raise Ignore


@shared_task
async def wait_with_others(item: int) -> int:
    Running.now += 1
    Running.most = max(Running.most, Running.now)
    while Running.most < 10:  # it never ends unless ten run at a time
        await asyncio.sleep(0.001)
    Running.now -= 1
    if item == 13:
        raise ValueError(item)
    return item


@shared_task
def one_more(item: int) -> int:
    return item + 1


def run(task: Any, *args: Any) -> Any:
    result = task.delay(*args)
    testing.run_all()
    assert not Call.objects.filter(task_id=result.id).exists()
    return result


def test_it_runs_to_its_end_on_one_loop() -> None:
    loops.clear()

    assert [run(double, number).get() for number in (1, 2)] == [2, 4]
    assert loops[0] is loops[1]


def test_called_directly_it_is_the_function_itself() -> None:
    assert asyncio.run(double(4)) == 8
    eager: Any = double.apply((4,))
    assert eager.get() == 8


def test_it_knows_its_request() -> None:
    result = run(who_am_i)

    assert result.get() == [result.id, result.id, False, True]


def test_it_uses_the_database_of_the_thread_that_runs_it() -> None:
    assert run(store_score, 7).get() == 1
    assert Score.objects.get().item == 7
    assert Call.objects.count() == 0  # those that it called have run, too


@pytest.mark.django_db(transaction=True)
def test_it_runs_in_no_transaction() -> None:
    assert run(is_in_a_transaction).get() is False


@pytest.mark.parametrize(
    ("task", "error"), [(fail, "ValueError('no')"), (cancel_itself, "was cancelled by its own code")]
)
def test_what_it_raises_is_its_failure(task: Any, error: str) -> None:
    result = run(task)

    assert result.state == "FAILURE"
    assert error in repr(result.result)
    assert "async def" in result.traceback or "in fail" in result.traceback or "in cancel_itself" in result.traceback


def test_it_retries_replaces_and_gives_up_as_others_do() -> None:
    assert run(retry_twice).get() == 2
    assert run(retried_by_itself).get() == 2
    assert run(replace_itself).get() == 42
    assert status(run(give_up)) == "cancelled"


def test_in_a_job_many_run_at_a_time_on_one_loop() -> None:
    Running.now = Running.most = 0
    job = over(range(30)).map(wait_with_others).map(one_more).start("io", threads=10)
    testing.run_all()

    assert Running.most == 10
    assert [job.result(item) for item in range(13)] == list(range(1, 14))
    job.refresh_from_db()
    assert job.failed == 1


def test_in_a_job_one_at_a_time() -> None:
    job = over(range(5)).map(double).map(double).start("cpu")
    testing.run_all()

    assert list(job.results()) == [0, 4, 8, 12, 16]


def test_a_transaction_within_it_is_written_as_a_function() -> None:
    @transaction.atomic
    def store() -> None:
        Score.objects.create(item=1, value=1)
        raise ValueError

    async def main() -> None:
        with pytest.raises(ValueError):
            await sync_to_async(store)()

    async_to_sync(main)()
    assert not Score.objects.exists()


def test_its_own_code_may_call_it() -> None:
    assert run(factorial, 4).get() == 24
    assert run(derived, 1).get() == 2


def test_it_may_say_how_far_it_is() -> None:
    assert run(go_halfway).get() == "HALFWAY"


def test_what_it_does_to_the_context_or_to_the_loop_is_not_seen_by_the_next() -> None:
    assert [run(change_tenant).get(), run(change_tenant).get()] == ["nobody", "nobody"]
    assert run(stop_the_loop).get() == "went on"
    assert run(double, 2).get() == 4
