"""Tasks that misbehave, tasks whose histories can be judged, and a producer that calls those."""

import os
import re
import signal
import time
from pathlib import Path

from celery import shared_task

from handbell import Job, serial_task
from handbell.errors import JobRefused
from tasks_app.models import Counter
from tasks_app.tasks import fibonacci
from tests.servers import wait_for


@serial_task(on=Counter, create=True)
def follow(counter: Counter, number: int) -> int:
    """Only `number` after `number - 1`: anything lost, doubled or out of order fails, and so does all that follows."""
    if counter.value != number - 1:
        raise ValueError(f"{number} came after {counter.value}")
    counter.value = number
    return number


@serial_task(on=Counter, create=True)
def crash(counter: Counter) -> None:
    os._exit(1)


@serial_task(on=Counter, create=True, soft_time_limit=0.5)
def never_end(counter: Counter) -> None:
    counter.value += 1_000
    while True:
        pass


@serial_task(soft_time_limit=0.5)
def never_end_in_a_transaction() -> None:
    Counter.objects.exists()
    time.sleep(600)


@serial_task(on=Counter, create=True, time_limit=1)
def never_end_in_c(counter: Counter) -> None:
    """One call of a function in C, which gives nobody else in its process a turn."""
    re.match("(a+)+$", "a" * 60 + "b")


@serial_task(on=Counter, create=True)
def hold_the_commit(counter: Counter, folder: str) -> None:
    """Has everything before it in the batch written; makes the file "written" in `folder`, and waits for "go on"."""
    Counter.objects.exists()
    (Path(folder) / "written").touch()
    wait_for((Path(folder) / "go on").exists, "the test lets it go on")


@serial_task(key="external:{name}", external=True)
def note_and_wait(name: str, path: str, seconds: float) -> str:
    """Leaves a line outside the database. The first time it then takes so many seconds."""
    is_first = not Path(path).exists()
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds if is_first else 0)
    return name


@shared_task
def weigh(item: int) -> int:
    """A tenth of a millisecond or so of work, with a result that shows the item."""
    return item * 1000 + fibonacci.run(15) % 1000


@shared_task
def misbehave(item: int) -> int:
    """One in a hundred raises, one in a thousand kills its process, and one in a thousand never returns."""
    if item % 1000 == 123:
        os.kill(os.getpid(), signal.SIGKILL)
    if item % 1000 == 456:
        time.sleep(3600)
    if item % 100 == 99:
        raise ValueError(f"{item} is not to be had")
    return item


@shared_task
def nap(item: int, seconds: float) -> int:
    time.sleep(seconds)
    return item


@shared_task
def wait_inside(job_id: int) -> str:
    try:
        Job.objects.get(pk=job_id).wait(5)
    except JobRefused as error:
        return str(error)
    return "it waited"
