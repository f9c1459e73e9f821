"""Rubbish on the broker, as another program might leave it there: none of it may be executed, or hold up anything."""

import base64
import json
import os
import pickle
import uuid
from pathlib import Path
from typing import Any

from celery import current_app, shared_task

NONSENSE: tuple[dict[str, Any], ...] = (
    {"task": ["a"]},
    {"task": {"a": 1}},
    {"id": 5},
    {"id": None},
    {"root_id": ["a"], "parent_id": {"a": 1}},
    {"timelimit": ["a", "b"]},
    {"timelimit": [{"a": 1}, -1]},
    {"handbell_enqueued_at": "never"},
    {"handbell_enqueued_at": [1]},
    {"ignore_result": "x", "origin": 5, "stamps": 7, "stamped_headers": 3},
    {"eta": 5, "expires": {"a": 1}},
    {"group_index": "x", "replaced_task_nesting": "x", "shadow": [1]},
)
QUEUES = ("cpu", "high", "serial", "isolated", "io")
EXECUTED = Path(os.environ.get("FAULTS_CONTROL", "."), "executed")  # what is here afterwards was executed


class Trap:
    """Executes something where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {EXECUTED}",)


def send_all() -> None:
    """A message of each sort to each queue."""
    with current_app.connection_for_write() as connection:
        producer = current_app.amqp.Producer(connection)
        for queue in QUEUES:
            for body, options in messages():
                producer.publish(body, exchange=queue, routing_key=queue, retry=False, **options)


def messages() -> list[tuple[Any, dict[str, Any]]]:
    arguments = json.dumps([[], {}, {}])
    plain = {"content_type": "application/json", "content_encoding": "utf-8"}
    return [
        (os.urandom(300), {"content_type": "application/octet-stream", "content_encoding": "binary"}),
        (os.urandom(300), {"content_type": "application/json", "content_encoding": "utf-8", "headers": headers()}),
        ("", {**plain, "headers": headers()}),
        ("{}", {**plain, "headers": {}}),
        ("[[[[]]]]", {**plain, "headers": {"task": 7, "id": None}}),
        *((body, {**plain, "headers": headers()}) for body in ("null", "5", "[]", '{"a": 1}', "[1, 2, 3]", '"abc"')),
        *((arguments, {**plain, "headers": headers(**changed)}) for changed in NONSENSE),
        (arguments, {**plain, "headers": headers(task="no.such.task")}),
        (arguments, {**plain, "headers": headers(id="x" * 100_000)}),
        (arguments, {**plain, "headers": headers(timelimit="soon")}),
        (arguments, {**plain, "headers": headers(eta="yesterday")}),
        (arguments, {**plain, "headers": headers(retries=-1, expires="never", group=[1], chord="x")}),
        (arguments, {**plain, "headers": headers(task="tests.faults.workload.work")}),
        (json.dumps([[1, 2, 3, 4], {"call": 1}, {}]), {**plain, "headers": headers(task="tests.faults.workload.work")}),
        (json.dumps({"task": "tests.faults.workload.work", "id": "x", "args": [], "kwargs": {}}), plain),
        (pickle.dumps(Trap()), {"content_type": "application/x-python-serialize", "content_encoding": "binary"}),
        (pickle.dumps([(), {}, {}]), pickled(headers(task="tests.faults.rubbish.must_not_run"))),
        (base64.b64encode(pickle.dumps(Trap())).decode(), {**plain, "headers": headers()}),
        (arguments, {**plain, "content_type": "application/x-yaml", "headers": headers()}),
        *doorbells(plain),
    ]


def pickled(said: dict[str, Any]) -> dict[str, Any]:
    return {"content_type": "application/x-python-serialize", "content_encoding": "binary", "headers": said}


def headers(**changed: Any) -> dict[str, Any]:
    task = "tests.faults.rubbish.do_nothing"
    return {"lang": "py", "task": task, "id": str(uuid.uuid4()), "argsrepr": "", "kwargsrepr": "", **changed}


def doorbells(plain: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """For lanes, jobs and tasks that do not exist, and with arguments that make no sense."""
    rung = [
        ("handbell.drain", [9999]),
        ("handbell.drain", ["first"]),
        ("handbell.drain", []),
        ("handbell.supervise", [1, 2]),
        ("handbell.work", [10**9, 1]),
        ("handbell.work", [None, None]),
        ("handbell.run_batch", ["no.such.task"]),
        ("handbell.run_batch", [{"a": 1}]),
    ]
    return [(json.dumps([args, {}, {}]), {**plain, "headers": headers(task=task)}) for task, args in rung]


@shared_task
def do_nothing(*args: Any, **kwargs: Any) -> None:
    """A well-formed message of another program may run this."""


@shared_task
def must_not_run() -> None:
    EXECUTED.touch()
