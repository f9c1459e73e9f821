"""The admin: what the system did, what it will do, what it works on, and who may use it."""

from django.contrib import admin

from tasks_app.admin import access, content, display, groups, jobs, lanes, launches, periodic, results, runs

__all__ = ["access", "content", "display", "groups", "jobs", "lanes", "launches", "periodic", "results", "runs"]

admin.site.index_title = "Overview"
admin.site.empty_value_display = display.NOTHING
