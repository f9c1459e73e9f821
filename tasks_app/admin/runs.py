"""Runs of the workloads: who started what, when, and the tasks it became."""

from typing import Any

from django.contrib import admin
from django.db import connection
from django.db.models import F, Func, IntegerField, QuerySet
from django.http import HttpRequest

from handbell import ReadOnlyAdmin
from tasks_app.admin import display
from tasks_app.models import Run
from tasks_app.workloads import WORKLOADS


class WorkloadFilter(admin.SimpleListFilter):
    title = "workload"
    parameter_name = "workload"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(slug, workload.title) for slug, workload in WORKLOADS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(workload=self.value()) if self.value() else queryset


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ("workload", "user", "started", "number")
    list_filter = (WorkloadFilter,)
    list_select_related = ("started_by",)
    ordering = ("-started_at",)
    fieldsets = (
        (None, {"fields": ("workload", "user", "started", "number")}),
        ("What was asked for", {"fields": ("asked_for",)}),
        ("Tasks", {"fields": ("became",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The tasks are counted by the database: their ids may be many."""
        length = "json_array_length" if connection.vendor == "sqlite" else "jsonb_array_length"
        rows: QuerySet[Any] = super().get_queryset(request).select_related("started_by")
        rows = rows.annotate(task_count=Func(F("task_ids"), function=length, output_field=IntegerField()))
        return rows.defer("task_ids", "inputs") if self.is_list(request) else rows

    @admin.display(description="Started by", ordering="started_by__username")
    def user(self, run: Run) -> str:
        return str(run.started_by or display.EMPTY_VALUE)

    @admin.display(description="Started", ordering="started_at")
    def started(self, run: Run) -> str:
        return display.moment(run.started_at)

    @admin.display(description="Number of tasks", ordering="task_count")
    def number(self, run: Any) -> str:
        return f"{run.task_count:,}"

    @admin.display(description="Inputs")
    def asked_for(self, run: Run) -> str:
        return display.data(run.inputs)

    @admin.display(description="Tasks")
    def became(self, run: Run) -> str:
        return display.task_links(run.task_ids)
