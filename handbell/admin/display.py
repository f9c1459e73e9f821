"""How values look in the admin: states, task names, times, data and traces."""

import json
from datetime import datetime, timedelta
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString

MAX_TEXT_CHARACTERS = 20_000
MAX_LINE_CHARACTERS = 100
EMPTY_VALUE = "—"


def state(word: str) -> SafeString:
    return format_html('<span class="task-state {}">{}</span>', word, word.replace("_", " "))


def task_name(name: str | None) -> str:
    """The function's name, after its module's name in a muted colour."""
    if not name:
        return EMPTY_VALUE
    module, dot, function = name.rpartition(".")
    return format_html('<span class="task-name"><span>{}{}</span>{}</span>', module, dot, function)


def code(text: str | None) -> str:
    return format_html("<code>{}</code>", text) if text else EMPTY_VALUE


def preformatted(text: str | None) -> str:
    """Text as it is, in a box of its own. A very long text is truncated, with a note that says how much is missing."""
    if not text:
        return EMPTY_VALUE
    more = len(text) - MAX_TEXT_CHARACTERS
    if more > 0:
        text = f"{text[:MAX_TEXT_CHARACTERS]}\n… and {more:,} characters more"
    return format_html('<pre class="data" tabindex="0">{}</pre>', text)


def data(value: Any) -> str:
    """A JSON value: on one line if it fits, over several otherwise."""
    if isinstance(value, str):
        return preformatted(value)
    line = json.dumps(value, ensure_ascii=False)
    return preformatted(line if len(line) <= MAX_LINE_CHARACTERS else json.dumps(value, ensure_ascii=False, indent=2))


def duration(time: timedelta) -> str:
    """A length of time in its two largest units."""
    seconds = max(time.total_seconds(), 0.0)
    if seconds < 1:
        return f"{round(seconds * 1000)} ms" if seconds >= 0.001 else "< 1 ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def moment(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else EMPTY_VALUE
