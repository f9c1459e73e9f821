"""What benchmarks/launch.py has run inside a system: launches that do nothing or hang, and the peers."""

import multiprocessing
import os
import signal
import time
from typing import Any

from django.db import connections

from handbell import Launch, isolated_task
from handbell.common import procfs
from handbell.isolated.process_labels import label_of

WAIT_SECONDS = 170.0


@isolated_task(timeout=60)
def nothing(number: int) -> int:
    return number


@isolated_task(timeout=3, grace=0.1)
def hang(number: int) -> None:
    """Every other one ignores TERM."""
    if number % 2:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def prefill(count: int) -> float:
    """Warm up with a few, done when they are; then clear the ledger and enqueue. The seconds that the latter took."""
    nothing.launch_many(range(5))
    _wait_until_all_are_over()
    Launch.objects.all().delete()
    started = time.perf_counter()
    nothing.launch_many(range(count))
    return time.perf_counter() - started


def outcome() -> dict[str, Any]:
    """From the first start to the last end, once all are over; and whether each returned what it was given."""
    _wait_until_all_are_over()
    rows: list[Any] = list(Launch.objects.order_by("id").values_list("status", "result", "started_at", "finished_at"))
    began, ended = min(row[2] for row in rows), max(row[3] for row in rows)
    exact = [row[:2] for row in rows] == [("succeeded", str(number)) for number in range(len(rows))]
    return {"seconds": (ended - began).total_seconds(), "exact": exact}


def kills(count: int) -> dict[str, Any]:
    """How late after its deadline each launch was dead, in milliseconds; and how many processes are left."""
    prefill(0)
    hang.launch_many(range(count))
    _wait_until_all_are_over()
    rows: list[Any] = list(Launch.objects.values_list("status", "started_at", "finished_at", "timeout"))
    late = sorted(1000 * ((row[2] - row[1]).total_seconds() - row[3]) for row in rows)
    names = set(Launch.objects.values_list("fork_server", flat=True))
    labels = {pid: label for pid in procfs.all_pids() if (label := label_of(pid)) and label.server in names}
    (fork_server,) = [pid for pid, label in labels.items() if label.launch is None]
    left = {*labels, *procfs.descendants_of(fork_server)} - {fork_server}
    at_once = max(sum(row[1] <= other[1] < row[2] for other in rows) for row in rows)
    return {
        "p50": round(late[len(late) // 2], 1),
        "p99": round(late[int(len(late) * 0.99)], 1),
        "max": round(late[-1], 1),
        "survivors": len(left),
        "at_once": at_once,
        "exact": {row[0] for row in rows} == {"timed_out"},
    }


def _wait_until_all_are_over() -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while Launch.objects.filter(status__in=["queued", "running"]).exists():
        if time.monotonic() > deadline:
            raise TimeoutError("A measurement did not come to its end.")
        time.sleep(0.25)


# --- The peers: nothing is written down, and the value goes back through a pipe ---------------------------------------


def manager_and_worker(count: int, at_once: int) -> dict[str, Any]:
    """A manager process per call, which forks a worker process with Django loaded and waits for it until a deadline."""
    connections.close_all()
    context = multiprocessing.get_context("fork")
    answers: list[int] = []
    started = time.perf_counter()
    running: list[Any] = []
    for number in range(count):
        if len(running) == at_once:
            _collect(running.pop(0), answers)
        reader, writer = context.Pipe(duplex=False)
        manager = context.Process(target=_manage, args=(context, writer, number))
        manager.start()
        writer.close()
        running.append((manager, reader))
    for one in running:
        _collect(one, answers)
    return {"seconds": time.perf_counter() - started, "exact": answers == list(range(count))}


def _manage(context: Any, writer: Any, number: int) -> None:
    worker = context.Process(target=_work, args=(writer, number))
    worker.start()
    worker.join(60)
    if worker.is_alive():
        worker.kill()
        worker.join()


def _work(writer: Any, number: int) -> None:
    writer.send(number)


def _collect(one: tuple[Any, Any], answers: list[int]) -> None:
    manager, reader = one
    answers.append(reader.recv())
    manager.join()
    reader.close()


def one_fork(count: int) -> dict[str, Any]:
    """A bare fork per call, one after the other, without a deadline."""
    connections.close_all()
    answers = []
    started = time.perf_counter()
    for number in range(count):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, str(number).encode())
            os._exit(0)
        os.close(writer)
        answers.append(int(os.read(reader, 100)))
        os.waitpid(pid, 0)
        os.close(reader)
    return {"seconds": time.perf_counter() - started, "exact": answers == list(range(count))}


def pebble(count: int) -> dict[str, Any]:
    """Pebble's pool with a deadline per call, and a fresh process for each."""
    from pebble import ProcessPool  # noqa: PLC0415  (only here)

    connections.close_all()
    context = multiprocessing.get_context("fork")
    with ProcessPool(max_workers=os.cpu_count() or 1, max_tasks=1, context=context) as pool:
        pool.schedule(_give_back, args=(0,), timeout=60).result()
        started = time.perf_counter()
        futures = [pool.schedule(_give_back, args=(number,), timeout=60) for number in range(count)]
        answers = [future.result() for future in futures]
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "exact": answers == list(range(count))}


def _give_back(number: int) -> int:
    return number
