"""Launches: which of them wait, run, or are over; how each ended, what it printed, and an action to cancel it."""

from typing import Any

from celery import current_app
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from handbell import states
from handbell.admin import display
from handbell.admin.base import ReadOnlyAdmin, steer_each
from handbell.isolated import launches
from handbell.isolated.declare import IsolatedTask
from handbell.models import Launch
from handbell.models.task_result import begins_with, decoded


class LaunchStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"
    template = "handbell/state_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(word, word) for word in Launch.STATUSES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=self.value()) if self.value() else queryset


class IsolatedTaskFilter(admin.SimpleListFilter):
    title = "task"
    parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        current_app.loader.import_default_modules()
        names = sorted(name for name, task in current_app.tasks.items() if isinstance(task, IsolatedTask))
        return [(name, name.rpartition(".")[2]) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(task=self.value()) if self.value() else queryset


@admin.register(Launch)
class LaunchAdmin(ReadOnlyAdmin):
    list_display = ("state", "name", "reason", "runtime", "enqueued", "short_id")
    list_display_links = ("name",)
    list_filter = (LaunchStateFilter, IsolatedTaskFilter)
    list_before_template = "handbell/state_chips.html"
    actions = ("cancel",)
    search_fields = ("task_id",)
    search_help_text = "The start of an id"
    ordering = ("-id",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("state", "runtime"),
                    ("name", "how_it_ended"),
                    ("limits", "where_it_ran"),
                    ("enqueued", "started"),
                    ("full_id", "finished"),
                )
            },
        ),
        ("Result", {"fields": ("result_shown", "trace", "output", "errors")}),
        ("Arguments", {"fields": ("arguments_shown",)}),
    )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what waits would be lost; what is over is deleted by `delete_finished`

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("handbell.change_launch")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        term = search_term.strip()
        return (queryset.filter(begins_with("task_id", term)) if term else queryset), False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.defer(*Launch.LARGE_COLUMNS) if self.is_list(request) else rows

    def name_of(self, row: Launch) -> str:
        return f"Launch {row.pk} of {row.task.rpartition('.')[2]}"

    @admin.display(description="State", ordering="status")
    def state(self, row: Launch) -> str:
        return display.state(row.status)

    @admin.display(description="Task", ordering="task")
    def name(self, row: Launch) -> str:
        return display.task_name(row.task)

    @admin.display(description="How it ended")
    def how_it_ended(self, row: Launch) -> str:
        code = f" (exit code {row.exit_code})" if row.exit_code is not None else ""
        return f"{row.reason}{code}" if row.reason else display.EMPTY_VALUE

    @admin.display(description="Runtime")
    def runtime(self, row: Launch) -> str:
        if row.started_at is None:
            return display.EMPTY_VALUE
        if row.status == states.RUNNING:
            return f"running for {display.duration(timezone.now() - row.started_at)}"
        return display.duration((row.finished_at or row.started_at) - row.started_at)

    @admin.display(description="Limits")
    def limits(self, row: Launch) -> str:
        return f"{row.timeout:g} s, then {row.grace:g} s of grace; {row.memory_mb:,} MiB"

    @admin.display(description="Where it ran")
    def where_it_ran(self, row: Launch) -> str:
        process = f"process {row.pid} on " if row.pid is not None else ""
        return f"{process}{row.host}" if row.host else display.EMPTY_VALUE

    @admin.display(description="Enqueued", ordering="id")
    def enqueued(self, row: Launch) -> str:
        return display.moment(row.enqueued_at)

    @admin.display(description="Started")
    def started(self, row: Launch) -> str:
        return display.moment(row.started_at)

    @admin.display(description="Finished")
    def finished(self, row: Launch) -> str:
        return display.moment(row.finished_at)

    @admin.display(description="Id")
    def short_id(self, row: Launch) -> str:
        return display.code(row.task_id[:8])

    @admin.display(description="Id")
    def full_id(self, row: Launch) -> str:
        return display.code(row.task_id)

    @admin.display(description="Arguments")
    def arguments_shown(self, row: Launch) -> str:
        return display.data(decoded(row.arguments))

    @admin.display(description="Result")
    def result_shown(self, row: Launch) -> str:
        return display.data(decoded(row.result)) if row.status == states.SUCCEEDED else display.EMPTY_VALUE

    @admin.display(description="Traceback")
    def trace(self, row: Launch) -> str:
        return display.preformatted(row.traceback)

    @admin.display(description="Standard output")
    def output(self, row: Launch) -> str:
        return display.preformatted(row.stdout)

    @admin.display(description="Standard error")
    def errors(self, row: Launch) -> str:
        return display.preformatted(row.stderr)

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Launch]) -> None:
        steer_each(
            request, queryset, lambda row: launches.cancel(row.pk), "cancelled; what runs is ended within a moment"
        )
