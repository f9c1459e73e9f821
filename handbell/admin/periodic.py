"""Periodic tasks and their schedules. Whoever enables, disables or runs one needs the permission to change it."""

from typing import Any

from celery.exceptions import QueueNotFound
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django_celery_beat import admin as library
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from kombu.exceptions import OperationalError

from handbell.admin import display
from handbell.admin.theme import ModelAdmin, Select, TabularInline, TextInput, library_template, themed
from handbell.common.broker import require_broker
from handbell.errors import BrokerUnavailable
from handbell.queues import queue_names

for _model in (PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule):
    admin.site.unregister(_model)


class PeriodicTaskForm(library.PeriodicTaskForm):  # type: ignore[misc]
    """Offers the queues that there are: a task sent to any other would be refused."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "queue" not in self.fields:  # the page is read only
            return
        self.fields["task"].widget = TextInput()
        self.fields["regtask"].widget = themed(library.TaskSelectWidget)()
        names = dict.fromkeys([*queue_names(), self.instance.queue])
        queues = [("", "the one the task names"), *((name, name) for name in names if name)]
        self.fields["queue"].widget = Select(choices=queues)


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(library.PeriodicTaskAdmin, ModelAdmin):  # type: ignore[misc]
    form = PeriodicTaskForm
    change_form_template = library_template(library.PeriodicTaskAdmin.change_form_template)
    empty_value_display = display.EMPTY_VALUE
    date_hierarchy = None
    list_display = ("name", "function", "schedule", "enabled", "last_run", "runs")
    list_filter = ("enabled", "one_off")
    search_help_text = "Name, or task"
    ordering = ("name",)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Whoever may only view it sees the task, not the two ways to name it."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return fieldsets
        viewed = ("name", "task", "enabled", "description")
        return ((None, {"fields": viewed}), *fieldsets[1:])

    @admin.display(description="Task", ordering="task")
    def function(self, row: PeriodicTask) -> str:
        return display.task_name(row.task)

    @admin.display(description="Schedule")
    def schedule(self, row: PeriodicTask) -> str:
        if row.crontab:
            return str(row.crontab.human_readable)
        return str(row.interval or row.solar or row.clocked or display.EMPTY_VALUE)

    @admin.display(description="Last run", ordering="last_run_at")
    def last_run(self, row: PeriodicTask) -> str:
        return display.moment(row.last_run_at)

    @admin.display(description="Runs", ordering="total_run_count")
    def runs(self, row: PeriodicTask) -> str:
        return f"{row.total_run_count:,}{' (only once)' if row.one_off else ''}"

    @admin.display(description="Crontab in words")
    def crontab_translation(self, row: PeriodicTask) -> str:
        return str(row.crontab.human_readable) if row.crontab else display.EMPTY_VALUE

    @admin.action(description="Enable selected tasks", permissions=["change"])
    def enable_tasks(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        super().enable_tasks(request, queryset)

    @admin.action(description="Disable selected tasks", permissions=["change"])
    def disable_tasks(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        super().disable_tasks(request, queryset)

    @admin.action(description="Enable the disabled and disable the enabled", permissions=["change"])
    def toggle_tasks(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        super().toggle_tasks(request, queryset)

    @admin.action(description="Run selected tasks now", permissions=["change"])
    def run_tasks(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        try:
            require_broker()
            super().run_tasks(request, queryset)
        except QueueNotFound:
            names = ", ".join(queue_names())
            text = f"Not every task was sent: one names a queue that does not exist. The queues are {names}."
            self.message_user(request, text, messages.ERROR)
        except (BrokerUnavailable, OperationalError) as error:
            self.message_user(request, f"Not every task was sent. {error}", messages.ERROR)


class UsedBy(TabularInline):
    """The periodic tasks that a schedule starts."""

    model = PeriodicTask
    fields = readonly_fields = ("name", "task", "enabled")
    can_delete = False
    show_change_link = True
    extra = 0
    verbose_name_plural = "Periodic tasks that use this schedule"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ScheduleAdmin(ModelAdmin):
    empty_value_display = display.EMPTY_VALUE
    inlines = (UsedBy,)


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(ScheduleAdmin):
    list_display = ("__str__", "every", "period")


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(ScheduleAdmin):
    list_display = ("human_readable", "minute", "hour", "day_of_month", "month_of_year", "day_of_week", "timezone")
    fields = ("human_readable", "minute", "hour", "day_of_month", "month_of_year", "day_of_week", "timezone")
    readonly_fields = ("human_readable",)

    @admin.display(description="In words")
    def human_readable(self, row: CrontabSchedule) -> str:
        return str(row.human_readable)


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(ScheduleAdmin):
    list_display = ("clocked_time",)


@admin.register(SolarSchedule)
class SolarScheduleAdmin(ScheduleAdmin):
    list_display = ("event", "latitude", "longitude")
