"""What the tasks work on: entries, which people write, and the numbers that only tasks change."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from unfold.admin import ModelAdmin

from handbell import ReadOnlyAdmin
from tasks_app.admin import display
from tasks_app.models import Counter, Entry, Score


@admin.register(Entry)
class EntryAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    list_display = ("title", "live", "visits", "words", "reading_time", "measured")
    list_filter = ("live",)
    search_fields = ("title",)
    fieldsets = (
        (None, {"fields": ("title", "body", "live")}),
        ("Numbers, as the tasks found them", {"fields": ("visits", "words", "reading_time", "measured")}),
    )
    readonly_fields = ("visits", "words", "reading_time", "measured")

    def get_view_on_site_url(self, obj: Entry | None = None) -> str | None:
        return reverse("entry", args=[obj.pk]) if obj is not None else None

    @admin.display(description="Reading time", ordering="reading_seconds")
    def reading_time(self, entry: Entry) -> str:
        return display.EMPTY_VALUE if entry.reading_seconds is None else f"{entry.reading_seconds:,} s"

    @admin.display(description="Measured", ordering="measured_at")
    def measured(self, entry: Entry) -> str:
        return display.moment(entry.measured_at)


@admin.register(Counter)
class CounterAdmin(ReadOnlyAdmin):
    """A counter is not edited or deleted by hand: its lane changes it, one operation at a time."""

    list_display = ("name", "value", "version")
    search_fields = ("name",)
    search_help_text = "A counter's name"
    ordering = ("name",)

    def name_of(self, row: Counter) -> str:
        return row.name

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Score)
class ScoreAdmin(ReadOnlyAdmin):
    list_display = ("item", "value")
    search_fields = ("=item",)
    search_help_text = "An item's number"
    ordering = ("item",)

    def name_of(self, row: Score) -> str:
        return f"Item {row.item}"
