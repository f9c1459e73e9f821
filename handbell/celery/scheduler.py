"""Beat's scheduler: the periodic tasks that the admin edits, each tick fired once, however many schedulers run."""

import logging
from datetime import UTC, datetime
from typing import Any

from celery.beat import SchedulingError
from celery.result import AsyncResult
from celery.schedules import schedstate
from django.db import Error, connection, transaction
from django.db.models import F, Q
from django.utils import timezone
from django_celery_beat import schedulers
from django_celery_beat.models import PeriodicTask

from handbell.common import broker
from handbell.common.outages import is_outage

EPOCH = datetime.fromtimestamp(0, UTC)
RETRY_SECONDS = 1.0
IDLE_SECONDS = 4  # a scheduler that is silent for so long in the middle of a tick loses it (PostgreSQL only)
DATABASE_AND_BROKER_ERRORS = (Error, *broker.ERRORS)
logger = logging.getLogger(__name__)


class PeriodicEntry(schedulers.ModelEntry):  # type: ignore[misc]  # the library has no types
    """A periodic task as it was read; `read_run_at` is when it had run last, None if never."""

    def __init__(self, model: PeriodicTask, app: Any = None) -> None:
        self.read_run_at, now = model.last_run_at, timezone.now()
        if model.last_run_at and model.last_run_at > now:
            # Another scheduler's clock is ahead, or was. While that one fires, it comes first; once it does not any
            # more, the next tick is an interval from now.
            model.last_run_at = now
        super().__init__(model, app=app)

    def claim_tick(self, now: datetime) -> bool:
        """Claim the tick, which only one scheduler can; whether nobody has fired it since the entry was read."""
        as_read = PeriodicTask.objects.filter(pk=self.model.pk, enabled=True, last_run_at=self.read_run_at)
        return bool(as_read.update(last_run_at=now, total_run_count=F("total_run_count") + 1))

    def release_tick(self, now: datetime) -> None:
        """Release the tick that `claim_tick` claimed, unless it has been released already."""
        taken = PeriodicTask.objects.filter(pk=self.model.pk, last_run_at=now)
        taken.update(last_run_at=self.read_run_at, total_run_count=F("total_run_count") - 1)

    def refresh(self) -> None:
        """Read the task again, in place: the schedule and its heap hold this object. A deleted task is disabled."""
        model = PeriodicTask.objects.filter(pk=self.model.pk).first()
        if model is None:
            self.model.enabled = False
        else:
            PeriodicEntry.__init__(self, model, app=self.app)


class DatabaseScheduler(schedulers.DatabaseScheduler):  # type: ignore[misc]  # the library has no types
    """The library's scheduler, with ticks that are claimed and fired in one transaction.

    No scheduler leads, and none holds a lock. Of those that find a task due, one changes its `last_run_at` from what
    all of them have read, and calls it; the others read it again. So when one dies, another fires the very next tick.
    The call is in the ledger with the tick, and is sent once the broker answers. While the database does not answer,
    the tick stays due.
    """

    Entry = PeriodicEntry

    def setup_schedule(self) -> None:
        """The library takes a missing time of the last change for "nothing has changed".

        It so overlooks the very first change, and any between its first reading and its first comparison, until it
        reads everything again five minutes later.
        """
        self._last_timestamp = self.Changes.last_change() or EPOCH
        super().setup_schedule()

    def _get_crontab_exclude_query(self) -> Q:
        """Leave none out. The library reads only those crontabs whose hour is near, so a tick that was missed for
        hours would be fired in the next night, two hours before the one that is due then.
        """
        return Q(pk__in=[])

    def schedule_changed(self) -> bool:
        changed = bool(super().schedule_changed())
        self._last_timestamp = self._last_timestamp or EPOCH
        return changed

    def sync(self) -> None:
        """Nothing waits to be written: the library's way, all that has run every few minutes, would undo what other
        schedulers have written meanwhile.
        """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Look at what is due next, once; seconds until the next look."""
        try:
            return float(super().tick(*args, **kwargs))
        except Error as error:
            logger.warning("The schedule could not be read: %s. It is tried again in a moment.", str(error).strip())
            self._initial_read, self._heap = True, None  # all of it is read again, then
            return RETRY_SECONDS

    def is_due(self, entry: PeriodicEntry) -> schedstate:
        """Fire the task if it is due. So it never is for the library's `tick`, which puts it back for a later time."""
        due, seconds = entry.is_due()
        if not due:
            return schedstate(False, seconds)
        try:
            fired = self._fire(entry)
            entry.refresh()
        except DATABASE_AND_BROKER_ERRORS as error:
            logger.warning("%s is due, but: %s. It is tried again in a moment.", entry.name, str(error).strip())
            return schedstate(False, RETRY_SECONDS)
        still_due, then = entry.is_due()
        return schedstate(False, 0.0 if still_due and not fired else then)

    def _fire(self, entry: PeriodicEntry) -> bool:
        """Claim the tick and make the call, in one transaction; whether the tick was there to be claimed."""
        now = entry._default_now()  # noqa: SLF001  (what the library calls it)
        try:
            with transaction.atomic():
                _limit_idle_time()
                if not entry.claim_tick(now):
                    return False
                called = self._call(entry)
        except broker.ERRORS:  # after the commit: a message of which nothing is in the ledger
            entry.release_tick(now)
            raise
        if called:
            logger.info("%s is called: %s %s", entry.name, entry.task, called.id)
        return True

    def _call(self, entry: PeriodicEntry) -> AsyncResult[Any] | None:
        """A call that can never be made, because of its arguments for instance, is logged, and its tick is over."""
        try:
            with transaction.atomic():
                result: AsyncResult[Any] = self.apply_async(entry, advance=False)
        except SchedulingError as error:
            cause = error.__context__
            if cause is not None and (is_outage(cause) or isinstance(cause, broker.ERRORS)):
                raise cause from None
            logger.exception("%s was not called.", entry.name)
            return None
        return result


def _limit_idle_time() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_SECONDS * 1000}")
