"""The admin's sidebar: every kind of row under the heading where one would look for it."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

#: Headings, each with its items: title, icon, app, model, and what one finds there.
GROUPS = {
    "Work": (
        ("Task results", "task_alt", "django_celery_results", "taskresult", "The outcome of every task, and why"),
        ("Operations", "reorder", "handbell", "operation", "The outcome of every call of a serial task, and why"),
        (
            "Jobs",
            "grid_view",
            "handbell",
            "job",
            "How far each job is, and what failed; pause, cancel, retry",
        ),
        ("Lanes", "view_stream", "handbell", "lane", "How many operations wait, and for how long; pause and resume"),
        ("Launches", "rocket_launch", "handbell", "launch", "Code in processes of its own: how each ended, and why"),
        ("Group results", "account_tree", "django_celery_results", "groupresult", "Groups of tasks that were saved"),
        ("Runs", "play_circle", "tasks_app", "run", "Who started which workload, and the tasks it became"),
    ),
    "Schedules": (
        ("Periodic tasks", "update", "django_celery_beat", "periodictask", "What beat starts, and when"),
        ("Intervals", "timelapse", "django_celery_beat", "intervalschedule", "Every so often"),
        ("Crontabs", "calendar_month", "django_celery_beat", "crontabschedule", "At certain times of certain days"),
        ("Clocked", "event", "django_celery_beat", "clockedschedule", "Once, at a given moment"),
        ("Solar events", "wb_sunny", "django_celery_beat", "solarschedule", "At sunrise, noon or dusk of a place"),
    ),
    "Content": (
        ("Entries", "article", "tasks_app", "entry", "Pages that people visit"),
        ("Counters", "tag", "tasks_app", "counter", "Shared state, each changed by its lane"),
        ("Scores", "leaderboard", "tasks_app", "score", "What was computed for each id"),
    ),
    "Access": (
        ("Users", "person", "auth", "user", "Accounts and what they may do"),
        ("Groups", "group", "auth", "group", "Permissions that accounts share"),
    ),
}


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """What unfold and the overview show; a heading without anything that the user may see is left out."""
    groups: list[dict[str, Any]] = []
    if request.user.has_perm("tasks_app.view_run"):
        groups.append({"items": [{"title": "Workloads", "icon": "home", "link": reverse("home"), "active": False}]})
    for heading, items in GROUPS.items():
        allowed = [
            {"title": title, "icon": icon, "link": reverse(f"admin:{app}_{model}_changelist"), "about": about}
            for title, icon, app, model, about in items
            if may_see(request, app, model)
        ]
        if allowed:
            groups.append({"title": heading, "items": allowed, "separator": True})
    return groups


def may_see(request: HttpRequest, app: str, model: str) -> bool:
    return any(request.user.has_perm(f"{app}.{right}_{model}") for right in ("view", "change"))
