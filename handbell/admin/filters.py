"""The filters of the task results. None of them scans the table to find its choices."""

from datetime import timedelta
from typing import Any

from celery import current_app
from django.contrib import admin
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django_celery_results.models import TaskResult

from handbell import states
from handbell.models.task_result import in_state
from handbell.queues import queue_names

#: Celery's own tasks that leave results: chunks and maps are run by these.
CELERY_TASKS = ("celery.map", "celery.starmap")
MAX_WORKERS = 50

Choices = list[tuple[str, str]]


def task_names() -> list[str]:
    """The names of every registered task that leaves results."""
    current_app.loader.import_default_modules()
    return sorted(name for name in current_app.tasks if not name.startswith("celery.") or name in CELERY_TASKS)


def worker_names() -> list[str]:
    """The workers that have results, by one index look-up per worker instead of a scan."""
    table = connection.ops.quote_name(TaskResult._meta.db_table)
    jumps = f"""
        WITH RECURSIVE found (worker) AS (
            SELECT MIN(worker) FROM {table}
            UNION ALL
            SELECT (SELECT MIN(worker) FROM {table} WHERE worker > found.worker) FROM found
            WHERE found.worker IS NOT NULL
        )
        SELECT worker FROM found WHERE worker IS NOT NULL LIMIT {MAX_WORKERS}
    """  # noqa: S608  (nothing in it comes from outside)
    with connection.cursor() as cursor:
        cursor.execute(jumps)
        return [worker for (worker,) in cursor.fetchall()]


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"
    template = "handbell/state_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(word, word) for word in states.CELERY_STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        word = self.value()
        if word not in states.CELERY_STATES:
            return queryset
        if word == states.RUNNING:
            return queryset.filter(pk__in=TaskResult.objects.filter(in_state(word)).order_by().values("pk"))
        return queryset.filter(in_state(word))


class TaskFilter(admin.SimpleListFilter):
    title = "task"
    parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(name, name.rpartition(".")[2]) for name in task_names()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(task_name=self.value()) if self.value() else queryset


class QueueFilter(admin.SimpleListFilter):
    title = "queue"
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(name, name) for name in queue_names()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The queue is part of a JSON text, as `handbell.celery.backend` writes it."""
        return queryset.filter(meta__contains=f'"queue": "{self.value()}"') if self.value() else queryset


class WorkerFilter(admin.SimpleListFilter):
    title = "worker"
    parameter_name = "worker"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(worker, worker) for worker in worker_names()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(worker=self.value()) if self.value() else queryset


class CreatedFilter(admin.SimpleListFilter):
    title = "age"
    parameter_name = "within"
    hours = {"1": "the past hour", "24": "the past 24 hours", "168": "the past 7 days", "720": "the past 30 days"}

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return list(self.hours.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        hours = self.value()
        if hours not in self.hours:
            return queryset
        return queryset.filter(date_created__gte=timezone.now() - timedelta(hours=int(hours)))
