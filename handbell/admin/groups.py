"""Saved groups of tasks, with the results of their members."""

from typing import Any

from celery.result import GroupResult as Group
from celery.result import result_from_tuple
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django_celery_results import admin as _library  # noqa: F401  (it registers what is unregistered here)
from django_celery_results.models import GroupResult

from handbell.admin import display
from handbell.admin.base import ReadOnlyAdmin
from handbell.admin.links import task_links
from handbell.models.task_result import begins_with, decoded

admin.site.unregister(GroupResult)


@admin.register(GroupResult)
class GroupResultAdmin(ReadOnlyAdmin):
    list_display = ("group", "created", "saved")
    ordering = ("-date_created",)
    search_fields = ("group_id",)
    search_help_text = "The start of a group's id"
    fieldsets = (
        (None, {"fields": ("group", "created", "saved")}),
        ("Tasks", {"fields": ("members",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows.defer("result") if self.is_list(request) else rows

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        return (queryset.filter(begins_with("group_id", term)) if term else queryset), False

    def name_of(self, row: Any) -> str:
        return f"Group {row.group_id}"

    @admin.display(description="Id")
    def group(self, row: Any) -> str:
        return display.code(row.group_id)

    @admin.display(description="Created", ordering="date_created")
    def created(self, row: Any) -> str:
        return display.moment(row.date_created)

    @admin.display(description="Last saved", ordering="date_done")
    def saved(self, row: Any) -> str:
        return display.moment(row.date_done)

    @admin.display(description="Tasks")
    def members(self, row: Any) -> str:
        group = result_from_tuple(decoded(row.result)) if row.result else None
        return task_links([member.id for member in group.results]) if isinstance(group, Group) else display.EMPTY_VALUE
