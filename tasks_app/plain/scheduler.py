"""Beat's scheduler: the periodic tasks that the admin edits, with every edit noticed."""

from datetime import UTC, datetime

from django_celery_beat import schedulers

LONG_AGO = datetime.fromtimestamp(0, UTC)


class DatabaseScheduler(schedulers.DatabaseScheduler):  # type: ignore[misc]  # the library has no types
    """The library's scheduler, which takes a missing time of the last change for "nothing has changed".

    It so overlooks the very first change, and any between its first reading and its first comparison, until it reads
    everything again five minutes later.
    """

    def setup_schedule(self) -> None:
        self._last_timestamp = self.Changes.last_change() or LONG_AGO
        super().setup_schedule()

    def schedule_changed(self) -> bool:
        changed = bool(super().schedule_changed())
        self._last_timestamp = self._last_timestamp or LONG_AGO
        return changed
