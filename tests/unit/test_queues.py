"""The table of queues, and what derives from it: workers, routes and declarations."""

from typing import Any

import pytest
from celery import current_app
from celery.exceptions import QueueNotFound
from kombu.transport.pyamqp import Channel

from tasks_app import queues, tasks
from tasks_app.queues import CPU, HIGH, IO, ISOLATED, QUEUES, SERIAL, Queue, route, worker_options

OPTIONS: list[tuple[Queue, int, list[str]]] = [
    (SERIAL, 1, ["--queues=serial", "--hostname=serial@%h", "--pool=prefork", "--concurrency=1"]),
    (
        HIGH,
        4,
        ["--queues=high", "--hostname=high@%h", "--pool=prefork", "--concurrency=4", "--max-memory-per-child=307200"],
    ),
    (
        CPU,
        8,
        ["--queues=cpu", "--hostname=cpu@%h", "--pool=prefork", "--autoscale=8,1", "--max-memory-per-child=307200"],
    ),
    (IO, 16, ["--queues=io", "--hostname=io@%h", "--pool=threads", "--concurrency=16"]),
    (ISOLATED, 2, ["--queues=isolated", "--hostname=isolated@%h", "--pool=prefork", "--concurrency=2"]),
]
FIBONACCI = tasks.fibonacci.name


@pytest.mark.parametrize(("queue", "concurrency", "options"), OPTIONS, ids=lambda value: getattr(value, "name", ""))
def test_a_worker_gets_the_options_of_its_queue(queue: Queue, concurrency: int, options: list[str]) -> None:
    assert worker_options(queue, concurrency) == options


def test_every_queue_is_covered_here() -> None:
    assert [queue for queue, _, _ in OPTIONS] == list(QUEUES)


def test_autoscaling_never_starts_with_more_processes_than_it_may_have() -> None:
    queue = Queue("big", "prefork", 8, "For tests.", autoscale_from=4)

    assert "--autoscale=2,2" in worker_options(queue, 2)


def test_a_shared_worker_takes_the_parallel_queues_under_its_own_name() -> None:
    assert queues.shared_worker_options("w1", 3) == [
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
    own: list[Any] = [task for name, task in current_app.tasks.items() if name.startswith("tasks_app.")]

    assert own
    for task in own:
        routed = current_app.amqp.router.route(dict(task._get_exec_options()), task.name, (), {})
        assert routed["queue"].name in {found.name for found in QUEUES}, task.name


def test_every_declaration_asks_rabbitmq_for_priorities_up_to_nine() -> None:
    declared: list[Any] = queues.declarations()
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

    assert routed["queue"].name == queues.DEFAULT.name


def test_each_adjustable_queue_has_a_variable_of_its_own() -> None:
    variables = [queue.variable for queue in QUEUES if queue.adjustable]

    assert variables == ["HIGH_CONCURRENCY", "CPU_CONCURRENCY", "IO_CONCURRENCY"]
