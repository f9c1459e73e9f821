"""A process that calls work of every kind, steadily, a thread per kind. `main` is called in the project's shell.

Each call has an id of its own before it is made. That it is about to be made, and that it was acknowledged, stands in
this process's history. A call that raised an error may have been recorded or not: it is `unsure`.
"""

import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

from celery import chain, chord, group
from django.db import connections

from handbell import over
from tasks_app.models import Counter
from tests.faults import workload
from tests.faults.history import now, own_history

EPOCH_SECONDS = 15  # then other keys are used, so that the histories of keys stay short
#: That a call takes now and then, so that there always is one in the middle of its work.
SLOW_SECONDS = float(os.environ.get("FAULTS_SLOW_SECONDS", "0"))
SHARED = ("list", "counter", "register")


class Kind(NamedTuple):
    """A kind of work: what makes one call of it, and how long to wait between two."""

    name: str
    call: "Callable[[Caller], None]"
    pause_seconds: float


class Caller(threading.Thread):
    """Makes calls of one kind, one after the other."""

    stopped = threading.Event()

    def __init__(self, process: str, kind: Kind, web: str) -> None:
        super().__init__(name=f"{process}-{kind.name}", daemon=True)
        self.kind, self.web = kind, web
        self.history = own_history()
        self.random = random.Random(self.name)
        self.count = 0
        self.call = ""

    def run(self) -> None:
        while not self.stopped.wait(self.kind.pause_seconds * self.random.uniform(0.5, 1.5)):
            self.count += 1
            self.call = f"{self.name}-{self.count}"
            self.kind.call(self)

    @property
    def key(self) -> str:
        return f"{int(time.monotonic()) // EPOCH_SECONDS}"

    def ask(
        self, send: Callable[[], object], shape: str, *, ids: list[str] | None = None, again: int = 0, **detail: Any
    ) -> bool:
        """Have `send` make the call, up to `again` times more if it raises an error; whether it was acknowledged.

        `ids` are those of the rows that it becomes, that which ends last at the end.
        """
        self.history.write(
            "invoked",
            call=self.call,
            caller=self.name,
            kind=self.kind.name,
            shape=shape,
            ids=ids or [self.call],
            **detail,
        )
        for _ in range(again + 1):
            try:
                send()
            except Exception as error:
                self.history.write("unsure", call=self.call, error=f"{type(error).__name__}: {error}"[:300])
                close_connections()
                self.stopped.wait(0.3)
            else:
                self.history.write("acknowledged", call=self.call)
                return True
        return False


def close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        try:
            connection.close()
        except Exception:
            connection.connection = None


# --- One call of each kind --------------------------------------------------------------------------------------------


def plain(caller: Caller) -> None:
    call, seconds = caller.call, caller.random.choice([0, 0, 0.01, 0.05, 0.2])
    if SLOW_SECONDS and caller.count % 10 == 0:
        caller.ask(lambda: workload.work.apply_async((call, SLOW_SECONDS), task_id=call), "work")
        return
    if SLOW_SECONDS and caller.count % 10 == 5:
        caller.ask(lambda: workload.begin_once.apply_async((call, SLOW_SECONDS), task_id=call, countdown=3), "once")
        return
    match caller.count % 4:
        case 0:
            caller.ask(lambda: workload.retried.apply_async((call,), task_id=call), "retried")
        case 1:
            caller.ask(lambda: workload.begin_once.apply_async((call, seconds), task_id=call), "once")
        case _:
            caller.ask(lambda: workload.work.apply_async((call, seconds), task_id=call), "work")


def canvas(caller: Caller) -> None:
    call = caller.call
    ids = [f"{call}/{number}" for number in range(4)]
    members = [workload.step.si(number, it).set(task_id=it) for number, it in enumerate(ids[:3])]
    body: Any = workload.collect.s(ids[3]).set(task_id=ids[3])
    match caller.count % 3:
        case 0:
            following = [workload.step.s(it).set(task_id=it) for it in ids[1:3]]
            canvas: Any = chain(workload.step.s(0, ids[0]).set(task_id=ids[0]), *following)
            caller.ask(canvas.apply_async, "chain", ids=ids[:3], expected=[1, 2, 3])
        case 1:
            caller.ask(lambda: chord(members)(body), "chord", ids=ids, expected=[1, 2, 3, 6])
        case _:
            caller.ask(group(members).apply_async, "group", ids=ids[:3], expected=[1, 2, 3])


def serial(caller: Caller) -> None:
    call, kind = caller.call, caller.random.choice(["own", *SHARED])
    key = f"{kind}:{caller.name}:{caller.key}" if kind == "own" else f"{kind}:{caller.key}"
    number = caller.random.randrange(10**6)
    if caller.random.random() < 0.2 and kind in {"counter", "register"}:
        read_now(caller, key)
        caller.ask(lambda: workload.look.apply_async((key,), task_id=call), "look", again=3, key=key)
    elif kind in {"own", "list"}:
        caller.ask(lambda: workload.append.apply_async((key, call), task_id=call), "append", again=3, key=key)
    elif kind == "counter":
        caller.ask(lambda: workload.add.apply_async((key, number), task_id=call), "add", again=3, key=key, value=number)
    else:
        caller.ask(
            lambda: workload.swap.apply_async((key, number), task_id=call), "swap", again=3, key=key, value=number
        )


def read_now(caller: Caller, key: str) -> None:
    """Read a row as it is, which waits for nobody."""
    begin = now()
    try:
        value = Counter.objects.filter(pk=key).values_list("value", flat=True).first()
    except Exception:
        close_connections()
    else:
        caller.history.write("read", call=f"{caller.call}/read", key=key, value=value or 0, invoked=begin)


def external(caller: Caller) -> None:
    call, name = caller.call, caller.random.choice("ab")
    caller.ask(
        lambda: workload.notify.apply_async((name, call), task_id=call), "notify", again=3, key=f"external:{name}"
    )


def job(caller: Caller) -> None:
    call, count = caller.call, caller.random.choice([1, 30, 150])
    source: Any = range(count) if caller.count % 2 else iter(range(count))
    pipeline = over(source).map(workload.work_on_item, call).save(workload.save_items).reduce(workload.add_up)
    callback = workload.job_is_over.s(call)
    caller.ask(lambda: pipeline.start("cpu", name=call, on_complete=callback, chunk_seconds=0.2), "job", count=count)


def launch(caller: Caller) -> None:
    call, seconds = caller.call, caller.random.choice([0, 0.05, 0.3])
    seconds = SLOW_SECONDS if caller.count % 4 == 3 and SLOW_SECONDS else seconds
    caller.ask(lambda: workload.work_apart.apply_async((call, seconds), task_id=call), "launch", again=3)


def web(caller: Caller) -> None:
    def get() -> None:
        urllib.request.urlopen(f"{caller.web}/faults/call/{caller.call}", timeout=10).close()

    caller.ask(get, "web")


#: About half of what two cores can do: what piles up during a fault must be worked off after it.
KINDS = (
    Kind("plain", plain, 0.4),
    Kind("canvas", canvas, 1.6),
    Kind("serial", serial, 0.2),
    Kind("external", external, 1.0),
    Kind("job", job, 3.0),
    Kind("launch", launch, 1.0),
    Kind("web", web, 1.0),
)


def main(name: str, web: str) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: Caller.stopped.set())
    callers = [Caller(name, kind, web) for kind in KINDS]
    for caller in callers:
        caller.start()
    print("ready.", flush=True)
    Caller.stopped.wait()
    deadline = time.monotonic() + 15
    for caller in callers:
        caller.join(max(0.0, deadline - time.monotonic()))
    os._exit(0)  # whatever a call still waits for
