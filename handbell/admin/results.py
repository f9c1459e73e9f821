"""The results of tasks: which state each is in, where it ran and for how long, what came out, what went wrong."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django_celery_results import admin as _library  # noqa: F401  (it registers what is unregistered here)
from django_celery_results.models import TaskResult

from handbell import states
from handbell.admin import display, filters
from handbell.admin.base import ReadOnlyAdmin
from handbell.models.task_result import LARGE_RESULT_COLUMNS, begins_with, decoded, error_in, queue_of

admin.site.unregister(TaskResult)


@admin.register(TaskResult)
class TaskResultAdmin(ReadOnlyAdmin):
    list_display = ("state", "task", "queue", "worker_name", "runtime", "created", "short_id")
    list_display_links = ("task",)
    list_filter = (
        filters.StateFilter,
        filters.TaskFilter,
        filters.QueueFilter,
        filters.WorkerFilter,
        filters.CreatedFilter,
    )
    list_before_template = "handbell/state_chips.html"
    ordering = ("-date_created",)
    search_fields = ("task_id", "task_name")
    search_help_text = "Task name, or the start of an id"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("state", "runtime"),
                    ("task", "periodic_task"),
                    ("queue", "worker_name"),
                    ("created", "started"),
                    ("full_id", "finished"),
                )
            },
        ),
        ("Result", {"fields": ("outcome", "trace")}),
        ("Arguments", {"fields": ("arguments", "keyword_arguments")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows.defer(*LARGE_RESULT_COLUMNS) if self.is_list(request) else rows

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """By the start of the id, or by any part of a registered task's name: the index on each serves both."""
        term = search_term.strip()
        if not term:
            return queryset, False
        names = [name for name in filters.task_names() if term.lower() in name.lower()]
        return queryset.filter(begins_with("task_id", term) | Q(task_name__in=[term, *names])), False

    def name_of(self, row: Any) -> str:
        return f"Task {row.task_id}"

    @admin.display(description="State", ordering="status")
    def state(self, row: Any) -> str:
        return display.state(states.word(row.status))

    @admin.display(description="Task", ordering="task_name")
    def task(self, row: Any) -> str:
        return display.task_name(row.task_name)

    @admin.display(description="Queue")
    def queue(self, row: Any) -> str:
        return display.code(queue_of(row))

    @admin.display(description="Worker", ordering="worker")
    def worker_name(self, row: Any) -> str:
        return display.code(row.worker)

    @admin.display(description="Runtime")
    def runtime(self, row: Any) -> str:
        word = states.word(row.status)
        if row.date_started is None or (word not in states.FINISHED and word != states.RUNNING):
            return display.EMPTY_VALUE
        if word == states.RUNNING:
            return f"running for {display.duration(timezone.now() - row.date_started)}"
        return display.duration(row.date_done - row.date_started)

    @admin.display(description="Created", ordering="date_created")
    def created(self, row: Any) -> str:
        return display.moment(row.date_created)

    @admin.display(description="Started")
    def started(self, row: Any) -> str:
        return display.moment(row.date_started)

    @admin.display(description="Finished")
    def finished(self, row: Any) -> str:
        return display.moment(row.date_done if states.word(row.status) in states.FINISHED else None)

    @admin.display(description="Id")
    def short_id(self, row: Any) -> str:
        return display.code(row.task_id[:8])

    @admin.display(description="Id")
    def full_id(self, row: Any) -> str:
        return display.code(row.task_id)

    @admin.display(description="Periodic task")
    def periodic_task(self, row: Any) -> str:
        return str(row.periodic_task_name or display.EMPTY_VALUE)

    @admin.display(description="Arguments")
    def arguments(self, row: Any) -> str:
        return display.data(decoded(row.task_args))

    @admin.display(description="Keyword arguments")
    def keyword_arguments(self, row: Any) -> str:
        return display.data(decoded(row.task_kwargs))

    @admin.display(description="Result")
    def outcome(self, row: Any) -> str:
        """The return value, or the error; while a task runs, Celery stores its process there instead."""
        if error := error_in(row):
            return display.preformatted(error)
        return display.data(decoded(row.result)) if states.word(row.status) in states.FINISHED else display.EMPTY_VALUE

    @admin.display(description="Traceback")
    def trace(self, row: Any) -> str:
        return display.preformatted(row.traceback)
