"""Jobs under faults: whatever dies, freezes, hangs or is lost, every item is done once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.conftest import COLUMNS
from tests.faults.nemesis import FROZEN_SECONDS, Nemesis
from tests.servers import HASTE, Postgres, wait_for
from tests.system import MANAGE, ROOT, Running, System, nothing_is_left

SECONDS = float(os.environ.get("FAULTS_SECONDS", "8"))
LEASE_SECONDS = "3"
WITH_TASKS = "--include=tests.faults.tasks"
START = """
from tasks_app.models import *
from tasks_app.parallel import over
from tests.faults import tasks
from tasks_app.tasks import increment_value
"""


@pytest.fixture
def system(system: System) -> System:
    system.environment["PARALLEL_LEASE_SECONDS"] = LEASE_SECONDS
    return system


def status(system: System) -> str:
    answer: str = system.python("from tasks_app.models import Job\nanswer = Job.objects.latest('id').status")
    return answer


def children(worker: Running) -> list[int]:
    return [child.pid for child in worker.process.children()]


@pytest.mark.timeout(SECONDS * 4 + 240)
@pytest.mark.parametrize("column", COLUMNS)
def test_nothing_is_lost_or_done_twice(
    column: str,
    make_system: Callable[[str], System],
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Children and workers are killed, frozen and replaced, the broker loses all it has, the database is restarted."""
    system, postgres, seed = make_system(column), None, random.randrange(2**32)
    with ExitStack() as stack:
        if column == "postgres-rabbitmq":  # a database of its own, for it is restarted
            postgres = Postgres(tmp_path_factory.mktemp("restarted"), *HASTE)
            stack.callback(postgres.stop)
            system.environment["DATABASE_URL"] = postgres.url()
            assert system.manage("migrate").returncode == 0
        system.environment |= {"SERIAL_FROZEN_SECONDS": str(FROZEN_SECONDS), "PARALLEL_LEASE_SECONDS": LEASE_SECONDS}
        nemesis = Nemesis(system, postgres, seed, stack, "cpu")
        count = max(20_000, int(SECONDS * 8_000))
        started = time.monotonic()
        start = f"job = over(range({count})).map(tasks.weigh).save(tasks.store)"
        system.python(f"{START}{start}.start('cpu', on_complete=increment_value.s())\nanswer = 1")
        nemesis.rage(SECONDS)
        calm = time.monotonic()
        wait_for(lambda: status(system) in {"succeeded", "failed"}, f"the job ends (seed {seed})", 60 + SECONDS * 3)
        recovered, took = time.monotonic() - calm, time.monotonic() - started
        wait_for(
            lambda: system.python(f"{START}answer = list(Counter.objects.values_list('value', flat=True))"),
            "the callback has run",
        )
        found = system.python(f"""{START}
job = Job.objects.get()
results = list(job.results())
answer = {{"status": job.status, "failed": job.failed, "errors": [f["error"] for f in job.failures()],
    "lost": {count} - len(results), "wrong": sum(r != i * 1000 + 610 for i, r in enumerate(results)),
    "saved": Score.objects.count(), "called back": list(Counter.objects.values_list("value", flat=True)),
    "given to another": sum(job.chunks.values_list("deaths", flat=True))}}""")
    with capsys.disabled():
        sys.stdout.write(
            f"\n{column}, seed {seed}, {count:,} items in {took:.0f} s, {recovered:.0f} s after the last fault: "
            f"{found}; nemesis: {nemesis.done}\n"
        )
    taken = found.pop("given to another")
    assert found == {
        "status": "succeeded",
        "failed": 0,
        "errors": [],
        "lost": 0,
        "wrong": 0,
        "saved": count,
        "called back": [1],
    }, taken
    nothing_is_left(system.folder)


def test_exactly_the_items_that_raise_kill_or_hang_fail(system: System) -> None:
    with system.worker("-Q", "cpu", "-c", "2", WITH_TASKS):
        system.python(f"{START}over(range(3000)).map(tasks.misbehave).start(item_timeout=1)\nanswer = 1")
        wait_for(lambda: status(system) == "failed", "the job ends", 60)
    found = system.python(f"""{START}
job = Job.objects.get()
answer = [list(job.results()), {{f["index"]: f["error"] for f in job.failures()}}]""")
    bad = {item for item in range(3000) if item % 1000 in {123, 456} or item % 100 == 99}
    assert found[0] == [None if item in bad else item for item in range(3000)]
    assert {int(index) for index in found[1]} == bad
    assert "killed by signal 9" in found[1]["1123"]
    assert "took longer than 1 s" in found[1]["2456"]


def test_an_item_that_kills_its_worker_s_child_is_found(system: System) -> None:
    """No item_timeout: the item runs in the worker's own process at first."""
    with system.worker("-Q", "cpu", "-c", "2", WITH_TASKS):
        system.python(f"{START}over(range(100, 400)).map(tasks.misbehave).start(chunk_size=50)\nanswer = 1")
        wait_for(lambda: status(system) == "failed", "the job ends", 60)
    failed = system.python(f"{START}answer = [f['index'] + 100 for f in Job.objects.get().failures()]")
    assert failed == [123, 199, 299, 399]


def test_the_late_write_of_a_frozen_worker_is_refused(system: System) -> None:
    """It is stopped in the middle of a chunk for longer than its claim lasts."""
    with (
        system.worker("-Q", "cpu", "-c", "1", "-n", "frozen@%h", WITH_TASKS) as frozen,
        ExitStack() as stack,
    ):
        system.python(f"{START}over(range(4)).map(tasks.nap, 0.5).start(chunk_size=4)\nanswer = 1")
        wait_for(lambda: status(system) == "running", "the chunk has begun")
        for pid in children(frozen):
            os.kill(pid, signal.SIGSTOP)
        stack.enter_context(system.worker("-Q", "cpu", "-c", "1", "-n", "second@%h", WITH_TASKS))
        wait_for(lambda: status(system) == "succeeded", "another worker does it", 40)
        for pid in children(frozen):
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: "was refused" in frozen.output(), "the late write is refused")
    found = system.python(f"{START}job = Job.objects.get()\nanswer = [job.succeeded, list(job.results())]")
    assert found == [4, [0, 1, 2, 3]]


def test_a_queryset_is_read_while_workers_write(sqlite_system: System) -> None:
    """In SQLite a connection that reads may not write any more once somebody else has written."""
    with sqlite_system.worker("-Q", "cpu", "-c", "2", WITH_TASKS):
        found = sqlite_system.python(f"""{START}
Entry.objects.bulk_create(Entry(title="x") for _ in range(20_000))
job = over(Entry.objects.order_by("pk")).map(tasks.weigh).start().wait(60)
keys = list(Entry.objects.order_by("pk").values_list("pk", flat=True))
answer = [job.status, job.source_state, [result // 1000 for result in job.results()] == keys]""")
    assert found == ["succeeded", "complete", True]


def test_a_producer_that_is_killed_leaves_what_arrived(system: System) -> None:
    with system.worker("-Q", "cpu", "-c", "2", WITH_TASKS):
        code = (
            f"{START}import time\n"
            "def source():\n    for item in range(10**9):\n        time.sleep(0.01)\n        yield item\n"
            "over(source()).map(tasks.weigh).start()"
        )
        producer = subprocess.Popen([*MANAGE, "shell", "--no-imports", "-v0", "-c", code], env=system.env, cwd=ROOT)
        look = f"{START}job = Job.objects.last()\nanswer = job and [job.source_state, job.total, job.succeeded]"
        wait_for(lambda: (system.python(look) or [0, 0, 0])[2] > 0, "work goes on while items arrive")
        producer.kill()
        producer.wait()
        wait_for(lambda: system.python(look)[0] == "interrupted", "the job says so", 20)
        wait_for(lambda: (found := system.python(look))[1] == found[2], "what arrived is done")
        arrived = system.python(look)[1]
        system.python(f"{START}Job.objects.get().extend(range({arrived}, {arrived} + 1000))\nanswer = 1")
        wait_for(lambda: status(system) == "succeeded", "the job ends", 40)
    results = system.python(f"{START}answer = list(Job.objects.get().results())")
    assert results == [item * 1000 + 610 for item in range(arrived + 1000)]


def test_a_small_job_does_not_wait_for_a_huge_one_and_nobody_waits_inside_a_worker(system: System) -> None:
    with system.worker("-Q", "cpu", "-c", "1", WITH_TASKS):
        system.python(f"{START}over(range(10**9)).map(tasks.weigh).start(name='huge')\nanswer = 1")
        wait_for(lambda: status(system) == "running", "the huge one has begun")
        seconds = system.python(
            f"{START}import time\nbegan = time.monotonic()\n"
            "over(range(2000)).map(tasks.weigh).start(name='small').wait(60)\nanswer = time.monotonic() - began"
        )
        assert seconds < 20
        system.python(
            f"{START}tasks.wait_inside.apply_async((Job.objects.get(name='huge').pk,), queue='cpu')\nanswer = 1"
        )
        said = "from django_celery_results.models import TaskResult\n"
        said += "answer = list(TaskResult.objects.exclude(result=None).values_list('result', flat=True))"
        wait_for(lambda: any("must not wait for a job" in text for text in system.python(said)), "it is refused")
        began = time.monotonic()
        system.python(f"{START}Job.objects.get(name='huge').cancel()\nanswer = 1")
        look = f"{START}answer = Chunk.objects.filter(job__name='huge', status='running').count()"
        wait_for(lambda: system.python(look) == 0, "no chunk runs any more", 10)
        assert time.monotonic() - began < 10
