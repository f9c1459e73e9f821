"""Runs Django's own tests of its Tasks framework: they find Handbell's backend where they look for Django's."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import django.test
from django.tasks.backends import dummy, immediate
from django.test.runner import DiscoverRunner
from django_celery_results.models import TaskResult

from handbell import ISOLATED_QUEUE, SERIAL_QUEUE, Celery, Queue, testing
from handbell.tasks import HandbellBackend

os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # some of the tests ask for results from coroutines
app = Celery("as_published")
app.config_from_object("django.conf:settings", namespace="CELERY")
QUEUES = (
    SERIAL_QUEUE,
    Queue("celery", "prefork", 1, "Everything else.", is_default=True),
    *(Queue(name, "prefork", 1, "The tests name it.") for name in ("queue_1", "queue-2", "unknown_queue")),
    ISOLATED_QUEUE,
)


class CallingBackend(HandbellBackend):
    """In the place of Django's dummy backend: tasks are called, and not run."""

    @property
    def results(self) -> list[Any]:
        ids = TaskResult.objects.order_by("id").values_list("task_id", flat=True)
        return [self.get_result(task_id) for task_id in ids]

    def clear(self) -> None:
        TaskResult.objects.all().delete()


class RunningBackend(HandbellBackend):
    """In the place of Django's immediate backend: a task is called and run, and its result read."""

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = super().enqueue(task, args, kwargs)
        testing.run_all()
        return self.get_result(result.id)


class Runner(DiscoverRunner):
    def build_suite(self, *args: Any, **kwargs: Any) -> Any:
        vars(dummy)["DummyBackend"] = CallingBackend
        vars(immediate)["ImmediateBackend"] = RunningBackend
        django.test.SimpleTestCase.databases = "__all__"
        return super().build_suite(*args, **kwargs)

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        with testing.without_broker():
            return super().run_suite(suite, **kwargs)
