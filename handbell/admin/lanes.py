"""Lanes and their operations: how many wait and for how long, what failed and why, and actions to steer them."""

from typing import Any

from celery import current_app
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from handbell import states
from handbell.admin import display
from handbell.admin.base import ReadOnlyAdmin, steer_each
from handbell.models import Lane, Operation
from handbell.models.task_result import begins_with, decoded, error_in
from handbell.serial import lanes
from handbell.serial.declare import SerialTask


def overview_of(lane: Any) -> lanes.LaneOverview:
    """The lane at a glance, read once per page."""
    if not hasattr(lane, "overview"):
        lane.overview = lanes.lane_overview(lane)
    overview: lanes.LaneOverview = lane.overview
    return overview


class SteeredAdmin(ReadOnlyAdmin):
    """Rows that nobody edits, and that actions steer. Actions need the permission to change such rows."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what waits would be lost; what is done is deleted by `delete_finished`

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"handbell.change_{self.opts.model_name}")


@admin.register(Lane)
class LaneAdmin(SteeredAdmin):
    list_display = ("number", "condition", "depth", "oldest", "drained")
    actions = ("pause", "resume", "skip", "retry")
    fields = ("number", "condition", "depth", "oldest", "drained")
    ordering = ("id",)
    list_per_page = 1024

    def name_of(self, row: Lane) -> str:
        return f"Lane {row.pk}"

    @admin.display(description="Lane", ordering="id")
    def number(self, lane: Lane) -> int:
        return lane.pk

    @admin.display(description="State")
    def condition(self, lane: Lane) -> str:
        return overview_of(lane).state

    @admin.display(description="Waiting")
    def depth(self, lane: Lane) -> str:
        depth = overview_of(lane).depth
        return f"{depth:,}" + ("+" if depth >= lanes.MAX_DEPTH_COUNTED else "")

    @admin.display(description="Age of the oldest")
    def oldest(self, lane: Lane) -> str:
        oldest = overview_of(lane).oldest
        return display.duration(oldest) if oldest is not None else display.EMPTY_VALUE

    @admin.display(description="Last drained", ordering="drained_at")
    def drained(self, lane: Lane) -> str:
        return display.moment(lane.drained_at)

    @admin.action(description="Pause", permissions=["steer"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Lane]) -> None:
        steer_each(request, queryset, lambda row: lanes.pause(row.pk), "paused; what is running is finished")

    @admin.action(description="Resume", permissions=["steer"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Lane]) -> None:
        steer_each(request, queryset, lambda row: lanes.resume(row.pk), "resumed")

    @admin.action(description="Skip what blocks, and continue", permissions=["steer"])
    def skip(self, request: HttpRequest, queryset: QuerySet[Lane]) -> None:
        steer_each(request, queryset, lambda row: lanes.skip(row.pk), "continued")

    @admin.action(description="Run what blocks again", permissions=["steer"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Lane]) -> None:
        steer_each(request, queryset, lambda row: lanes.retry(row.pk), "running again")


class OperationStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(word, word) for word in Operation.STATUSES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=self.value()) if self.value() else queryset


class SerialTaskFilter(admin.SimpleListFilter):
    title = "task"
    parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        current_app.loader.import_default_modules()
        names = sorted(name for name, task in current_app.tasks.items() if isinstance(task, SerialTask))
        return [(name, name.rpartition(".")[2]) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(task=self.value()) if self.value() else queryset


@admin.register(Operation)
class OperationAdmin(SteeredAdmin):
    list_display = ("state", "name", "key", "lane", "attempts", "waited", "enqueued", "short_id")
    list_display_links = ("name",)
    list_filter = (OperationStateFilter, SerialTaskFilter)
    actions = ("retry", "cancel")
    search_fields = ("task_id",)
    search_help_text = "The start of an id, or a whole key"
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": (("state", "attempts"), ("name", "key"), ("lane", "waited"), ("enqueued", "started"))}),
        ("Arguments", {"fields": ("arguments_shown",)}),
        ("Result", {"fields": ("result_shown", "error", "trace", "full_id")}),
    )

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        return queryset.filter(begins_with("task_id", search_term)) | queryset.filter(key=search_term), False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.defer("arguments", "result", "traceback") if self.is_list(request) else rows

    def name_of(self, row: Operation) -> str:
        return f"{row.task.rpartition('.')[2]} {row.key}"

    @admin.display(description="State", ordering="status")
    def state(self, row: Operation) -> str:
        return display.state(row.status)

    @admin.display(description="Task", ordering="task")
    def name(self, row: Operation) -> str:
        return display.task_name(row.task)

    @admin.display(description="From call to commit")
    def waited(self, row: Operation) -> str:
        if row.not_before and row.status == states.QUEUED:
            return f"not before {display.moment(row.not_before)}"
        return display.duration((row.finished_at or timezone.now()) - row.enqueued_at)

    @admin.display(description="Enqueued", ordering="id")
    def enqueued(self, row: Operation) -> str:
        return display.moment(row.enqueued_at)

    @admin.display(description="Started")
    def started(self, row: Operation) -> str:
        return display.moment(row.started_at)

    @admin.display(description="Id")
    def short_id(self, row: Operation) -> str:
        return display.code(row.task_id[:8])

    @admin.display(description="Id")
    def full_id(self, row: Operation) -> str:
        return display.code(row.task_id)

    @admin.display(description="Arguments")
    def arguments_shown(self, row: Operation) -> str:
        return display.data(decoded(row.arguments))

    @admin.display(description="Result")
    def result_shown(self, row: Operation) -> str:
        return display.data(decoded(row.result)) if row.status == states.SUCCEEDED else display.EMPTY_VALUE

    @admin.display(description="Error")
    def error(self, row: Operation) -> str:
        return (
            display.preformatted(error_in(row)) if row.status in {states.FAILED, states.LOST} else display.EMPTY_VALUE
        )

    @admin.display(description="Traceback")
    def trace(self, row: Operation) -> str:
        return display.preformatted(row.traceback)

    @admin.action(description="Retry", permissions=["steer"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Operation]) -> None:
        steer_each(request, queryset, lambda row: lanes.retry_operation(row.pk), "queued again")

    @admin.action(description="Cancel", permissions=["steer"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Operation]) -> None:
        steer_each(request, queryset, lambda row: lanes.cancel_operation(row.pk), "cancelled")
