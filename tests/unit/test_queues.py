"""Tables of queues, the project's and the engine's own, and what derives from them: workers, routes, declarations."""

from typing import Any

import pytest
from celery import current_app
from celery.exceptions import QueueNotFound
from django.conf import LazySettings
from kombu.transport.pyamqp import Channel

from handbell import queues
from handbell.queues import CORES, ISOLATED_QUEUE, SERIAL_QUEUE, Queue, problems_in, queue_table, worker_options
from tasks_app import tasks
from tasks_app.queues import CPU, HIGH, IO, QUEUES, route

OPTIONS: list[tuple[Queue, list[str]]] = [
    (SERIAL_QUEUE, ["--queues=serial", "--hostname=serial@%h", "--pool=prefork", "--concurrency=1"]),
    (
        HIGH,
        ["--queues=high", "--hostname=high@%h", "--pool=prefork", "--concurrency=4", "--max-memory-per-child=307200"],
    ),
    (
        CPU,
        [
            *("--queues=cpu", "--hostname=cpu@%h", "--pool=prefork"),
            *(f"--autoscale={CORES},1", "--max-memory-per-child=307200"),
        ],
    ),
    (IO, ["--queues=io", "--hostname=io@%h", "--pool=threads", "--concurrency=16"]),
    (ISOLATED_QUEUE, ["--queues=isolated", "--hostname=isolated@%h", "--pool=prefork", "--concurrency=2"]),
]
FIBONACCI = tasks.fibonacci.name


@pytest.mark.parametrize(("queue", "options"), OPTIONS, ids=lambda value: getattr(value, "name", ""))
def test_a_worker_gets_the_options_of_its_queue(queue: Queue, options: list[str]) -> None:
    assert worker_options(queue) == options


def test_every_queue_is_covered_here() -> None:
    assert [queue for queue, _ in OPTIONS] == list(QUEUES) == list(queue_table())


def test_the_setting_changes_the_concurrency_of_the_queues_that_it_names(settings: LazySettings) -> None:
    settings.HANDBELL_CONCURRENCY = "cpu=8,io=3"

    assert "--autoscale=8,1" in worker_options(CPU)
    assert "--concurrency=3" in worker_options(IO)
    assert "--concurrency=4" in worker_options(HIGH)


def test_autoscaling_never_starts_with_more_processes_than_it_may_have(settings: LazySettings) -> None:
    queue = Queue("big", "prefork", 8, "For tests.", autoscale_from=4)
    settings.HANDBELL_CONCURRENCY = {"big": 2}

    assert "--autoscale=2,2" in worker_options(queue)


def test_a_shared_worker_takes_the_parallel_queues_under_its_own_name(settings: LazySettings) -> None:
    settings.HANDBELL_CONCURRENCY = {"cpu": 3}

    assert queues.shared_worker_options("w1") == [
        *("--queues=high,cpu,io", "--hostname=w1@%h", "--pool=prefork", "--concurrency=3")
    ]


@pytest.mark.parametrize(
    ("args", "kwargs", "queue"),
    [
        ((0,), {}, "high"),
        ((15,), {}, "high"),
        ((16,), {}, "cpu"),
        ((), {"n": 15}, "high"),
        ((), {"n": 16}, "cpu"),
        ((), None, "cpu"),
        (None, None, "cpu"),
        (("many",), {}, "cpu"),
    ],
)
def test_small_fibonacci_numbers_do_not_wait_behind_large_ones(args: Any, kwargs: Any, queue: str) -> None:
    assert route(FIBONACCI, args, kwargs, {}) == {"queue": queue}


def test_other_tasks_are_routed_by_what_they_name_themselves() -> None:
    assert route("tasks_app.tasks.score", (1,), {}, {}) is None


def test_every_task_goes_to_a_queue_in_the_table() -> None:
    own: list[Any] = [task for name, task in current_app.tasks.items() if name.startswith(("tasks_app.", "handbell."))]

    assert {"handbell.drain", "handbell.supervise", "tasks_app.tasks.fibonacci"} <= {task.name for task in own}
    for task in own:
        routed = current_app.amqp.router.route(dict(task._get_exec_options()), task.name, (), {})
        assert routed["queue"].name in queues.queue_names(), task.name


def test_every_declaration_asks_rabbitmq_for_priorities_up_to_nine() -> None:
    declared: list[Any] = queues.kombu_queues()
    arguments: Any = Channel.prepare_queue_arguments

    assert [queue.name for queue in declared] == [queue.name for queue in QUEUES]
    for queue in declared:
        assert (queue.exchange.name, queue.routing_key) == (queue.name, queue.name)
        assert arguments(None, {}, max_priority=queue.max_priority) == {"x-max-priority": 9}


def test_a_queue_that_is_not_in_the_table_is_refused_at_the_call() -> None:
    with pytest.raises(QueueNotFound, match="nonsense"):
        tasks.fibonacci.apply_async((1,), queue="nonsense")


def test_a_task_without_a_queue_or_a_route_goes_to_the_default_queue() -> None:
    routed = current_app.amqp.router.route({}, "somewhere.else", (), {})

    assert routed["queue"].name == queues.default_queue() == CPU.name


def test_a_project_without_a_table_has_the_one_of_the_engine(settings: LazySettings) -> None:
    settings.HANDBELL_QUEUES = None

    assert queues.queue_names() == ["serial", "celery", "io", "isolated"]
    assert queues.default_queue() == "celery"
    assert problems_in(queue_table()) == []


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (QUEUES[1:], "It has no queue serial, which Handbell's own messages go to."),
        (QUEUES[:-1], "It has no queue isolated, which Handbell's own messages go to."),
        ((*QUEUES, HIGH), "It has the queue high more than once."),
        ((SERIAL_QUEUE, HIGH, IO, ISOLATED_QUEUE), "Exactly one queue must have is_default=True."),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_a_sentence(table: tuple[Queue, ...], problem: str) -> None:
    assert problems_in(table) == [problem]
    assert problems_in(QUEUES) == []
