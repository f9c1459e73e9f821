"""Parallel jobs: how far each is, what failed and why, and actions to steer them."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from handbell.admin import display
from handbell.admin.base import ReadOnlyAdmin, steer_each
from handbell.parallel.job import Job
from handbell.retention import delete_jobs

MAX_SHOWN_FAILURES = 20


class JobStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(word, word) for word in Job.STATUSES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=self.value()) if self.value() else queryset


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("state", "title", "progress", "failures", "rate", "queue", "enqueued", "took")
    list_display_links = ("title",)
    list_filter = (JobStateFilter,)
    search_fields = ("name",)
    search_help_text = "Any part of the name"
    actions = ("pause", "resume", "cancel", "retry")
    ordering = ("-id",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "problem",
                    ("state", "progress"),
                    ("title", "queue"),
                    ("rate", "took"),
                    ("enqueued", "parents"),
                )
            },
        ),
        ("Pipeline", {"fields": ("pipeline", "value")}),
        ("Failures", {"fields": ("error", "failed_items")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.defer("value_json", "stages", "error") if self.is_list(request) else rows

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("handbell.change_job")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A job that has not finished is to be cancelled first."""
        return super().has_delete_permission(request, obj) and (obj is None or obj.finished)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """What the confirmation lists: the jobs, and none of their million results."""
        jobs = list(objs)
        goes_on = [f"{self.name_of(job)}: it has not finished" for job in jobs if not job.finished]
        return [self.name_of(job) for job in jobs], {"jobs": len(jobs)}, set(), goes_on

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        delete_jobs(Job.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        delete_jobs(queryset)

    def name_of(self, row: Job) -> str:
        return f"Job {row.pk}, {row.name}"

    @admin.display(description="State", ordering="status")
    def state(self, job: Job) -> str:
        return display.state(job.state)

    @admin.display(description="Name", ordering="name")
    def title(self, job: Job) -> str:
        return job.name

    @admin.display(description="Done")
    def progress(self, job: Job) -> str:
        more = "" if job.source_state == Job.COMPLETE else f", source {job.source_state}"
        return format_html(
            '<progress class="job-bar" max="{}" value="{}"></progress> {} of {}{}',
            max(job.total, 1),
            job.done,
            f"{job.done:,}",
            f"{job.total:,}",
            more,
        )

    @admin.display(description="Why it waits")
    def problem(self, job: Job) -> str:
        return job.problem or display.EMPTY_VALUE

    @admin.display(description="Failed", ordering="failed")
    def failures(self, job: Job) -> str:
        return f"{job.failed:,}"

    @admin.display(description="Rate")
    def rate(self, job: Job) -> str:
        return f"{job.rate:,.0f}/s" if job.rate else display.EMPTY_VALUE

    @admin.display(description="Enqueued", ordering="id")
    def enqueued(self, job: Job) -> str:
        return display.moment(job.enqueued_at)

    @admin.display(description="Took")
    def took(self, job: Job) -> str:
        if job.started_at is None:
            return display.EMPTY_VALUE
        return display.duration((job.finished_at or timezone.now()) - job.started_at)

    @admin.display(description="Part of")
    def parents(self, job: Job) -> str:
        if job.parent_id is None:
            return display.EMPTY_VALUE
        address = reverse("admin:handbell_job_change", args=[job.parent_id])
        return format_html('<a href="{}">Job {}</a>', address, job.parent_id)

    @admin.display(description="Stages")
    def pipeline(self, job: Job) -> str:
        lines = [
            f"{name}({', '.join(['item', *map(repr, args), *(f'{key}={value!r}' for key, value in kwargs.items())])})"
            for name, args, kwargs in job.stages
        ]
        lines += [f"reduce {job.reducer}"] * bool(job.reducer) + [f"save {job.saver}"] * bool(job.saver)
        return display.preformatted("\n".join(lines))

    @admin.display(description="Value")
    def value(self, job: Job) -> str:
        return display.data(job.value) if job.value_json is not None else display.EMPTY_VALUE

    @admin.display(description="Error")
    def error(self, job: Job) -> str:
        return display.preformatted(job.error)

    @admin.display(description="Items")
    def failed_items(self, job: Job) -> str:
        shown = list(job.failure_rows.all()[:MAX_SHOWN_FAILURES])
        text = "\n\n".join(f"item {it.index}: {it.item}\n{it.error}\n{it.traceback}".rstrip() for it in shown)
        more = job.failed - len(shown)
        return display.preformatted(f"{text}\n\n… and {more:,} more" if shown and more > 0 else text)

    @admin.action(description="Pause", permissions=["steer"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        steer_each(request, queryset, Job.pause, "paused; what is running is finished")

    @admin.action(description="Resume", permissions=["steer"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        steer_each(request, queryset, Job.resume, "resumed")

    @admin.action(description="Cancel", permissions=["steer"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        steer_each(request, queryset, Job.cancel, "cancelled")

    @admin.action(description="Retry what failed", permissions=["steer"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        steer_each(request, queryset, Job.retry_failed, "running again")
