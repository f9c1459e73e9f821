"""How often work may be started from the pages: so many times a minute by each user, and by all of them together.

The count is kept in the database, which every web server shares, and by the database's clock. It is the leaky bucket
as a meter: a whole minute's starts may come at once, and the next one when the share of one has drained.
"""

from datetime import timedelta
from math import ceil

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.functions import Now
from django.http import HttpResponse

from tasks_app.models import Throttle

MINUTE = timedelta(minutes=1)


class TooManyStarts(Exception):
    """Work is not started, because so much has been started within the last minute."""

    def __init__(self, who: str, limit: int, wait: timedelta) -> None:
        self.retry_seconds = ceil(wait.total_seconds())
        seconds = f"{self.retry_seconds} second{'' if self.retry_seconds == 1 else 's'}"
        super().__init__(
            f"{who} may start work {limit} time{'' if limit == 1 else 's'} a minute. Try again in {seconds}."
        )

    def as_status(self, response: HttpResponse) -> HttpResponse:
        """The response, as one that says so to programs, too."""
        response.status_code = 429
        response.headers["Retry-After"] = str(self.retry_seconds)
        return response


def count_start(user: User) -> None:
    """Count that `user` starts work.

    Raises:
        TooManyStarts: it is too much; nothing is counted.
    """
    limits = {
        "everyone": ("All users together", settings.STARTS_PER_MINUTE),
        f"user {user.pk}": ("You", settings.STARTS_PER_MINUTE_PER_USER),
    }
    with transaction.atomic():
        Throttle.objects.bulk_create([Throttle(subject=subject) for subject in limits], ignore_conflicts=True)
        # In the same order for everybody, so that no two wait for each other.
        found = Throttle.objects.select_for_update().filter(subject__in=limits).order_by("subject").annotate(now=Now())
        for row in found:
            who, limit = limits[row.subject]
            used_up_until = min(max(row.used_up_until, row.now), row.now + MINUTE) + MINUTE // limit
            if used_up_until > row.now + MINUTE:
                raise TooManyStarts(who, limit, used_up_until - row.now - MINUTE)
            Throttle.objects.filter(pk=row.pk).update(used_up_until=used_up_until)
