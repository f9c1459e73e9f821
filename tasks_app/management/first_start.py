"""What the first `up` finds missing and makes: an admin account, Flower's password, a few entries to look at."""

import secrets

from django.conf import settings
from django.contrib.auth import get_user_model

from tasks_app.models import Entry
from tasks_app.secrets import kept_secret

ENTRIES = {
    "The broker rings": "A message broker wakes the right process on the right machine. It is good at that, and it is "
    "not asked to remember anything. ",
    "The database remembers": "What was asked for, who is working on it and what came out stands in rows. A restart "
    "finds them where they were. ",
    "One at a time": "Work that changes shared state goes through one queue in single file. Nobody writes a lock, and "
    "whoever only reads does not wait. ",
    "All at once": "Work that shares nothing spreads over every core and every machine that has a worker. ",
    "Gone at the deadline": "Code that may hang runs in a process of its own. When its time is up, it is ended, "
    "together with whatever it started. ",
    "Pages that do not wait": "A view hands work over and answers. The numbers arrive when they are ready. ",
    "Numbers that arrive": "This entry has been visited, measured and timed, a little later than it was shown. ",
    "Every night": "Old results are deleted on a schedule that can be changed in the admin. ",
}


def ensure_admin() -> str | None:
    """Create the account `admin` if there is no superuser; its password if so, otherwise None."""
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.create_superuser(username="admin", email="", password=password)
    return password


def ensure_entries() -> None:
    if not Entry.objects.exists():
        Entry.objects.bulk_create(Entry(title=title, body=text * 20) for title, text in ENTRIES.items())


def flower_credentials() -> str:
    """`user:password` for Flower: FLOWER_BASIC_AUTH, or a generated one kept in a file."""
    return settings.FLOWER_BASIC_AUTH or f"admin:{kept_secret(settings.FLOWER_PASSWORD_FILE)}"
