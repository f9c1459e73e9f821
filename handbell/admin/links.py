"""Links from one thing in the admin to another."""

from collections.abc import Sequence
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html, format_html_join

from handbell.admin import display

MAX_SHOWN = 50


def tasks(ids: Sequence[str]) -> str:
    """The ids of tasks, each leading to its result; of very many, the first."""
    if not ids:
        return display.NOTHING
    results = reverse("admin:django_celery_results_taskresult_changelist")
    links = format_html_join(
        " ", '<a href="{}?{}">{}</a>', ((results, urlencode({"q": task}), task) for task in ids[:MAX_SHOWN])
    )
    more = f"… and {len(ids) - MAX_SHOWN:,} more" if len(ids) > MAX_SHOWN else ""
    return format_html('<div class="task-ids">{} {}</div>', links, more)
