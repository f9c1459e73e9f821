"""Links from one page of the admin to another."""

from collections.abc import Sequence
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html, format_html_join

from handbell.admin import display

MAX_LINKS = 50


def task_links(ids: Sequence[str]) -> str:
    """The ids of tasks, each linked to its result: the first fifty, and how many more there are."""
    if not ids:
        return display.EMPTY_VALUE
    results = reverse("admin:django_celery_results_taskresult_changelist")
    links = format_html_join(
        " ", '<a href="{}?{}">{}</a>', ((results, urlencode({"q": task}), task) for task in ids[:MAX_LINKS])
    )
    more = f"… and {len(ids) - MAX_LINKS:,} more" if len(ids) > MAX_LINKS else ""
    return format_html('<div class="task-ids">{} {}</div>', links, more)
