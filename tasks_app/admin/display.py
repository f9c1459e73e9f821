"""How values look in this project's admin pages: times, data, and links to the results of tasks."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html, format_html_join

EMPTY_VALUE = "—"
MAX_LINE_CHARACTERS = 100
MAX_SHOWN_TASKS = 50


def moment(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else EMPTY_VALUE


def data(value: Any) -> str:
    """A JSON value: on one line if it fits, over several otherwise."""
    line = json.dumps(value, ensure_ascii=False)
    text = line if len(line) <= MAX_LINE_CHARACTERS else json.dumps(value, ensure_ascii=False, indent=2)
    return format_html('<pre class="data" tabindex="0">{}</pre>', text)


def task_links(ids: Sequence[str]) -> str:
    """The ids of tasks, each leading to its result; of very many, the first."""
    if not ids:
        return EMPTY_VALUE
    results = reverse("admin:django_celery_results_taskresult_changelist")
    links = format_html_join(
        " ", '<a href="{}?{}">{}</a>', ((results, urlencode({"q": task}), task) for task in ids[:MAX_SHOWN_TASKS])
    )
    more = f"… and {len(ids) - MAX_SHOWN_TASKS:,} more" if len(ids) > MAX_SHOWN_TASKS else ""
    return format_html('<div class="task-ids">{} {}</div>', links, more)
