"""The admin pages of this project; Handbell adds its own."""

from django.contrib import admin

from tasks_app.admin import access, content, display, runs

__all__ = ["access", "content", "runs"]

admin.site.index_title = "Overview"
admin.site.empty_value_display = display.EMPTY_VALUE
