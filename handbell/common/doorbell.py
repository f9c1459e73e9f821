"""Doorbells: the one message that says "there is work", sent once however many callers have some.

A caller rings after its commit: if it finds the flag cleared, it sets it and sends the message. Whoever answers clears
the flag before looking for work. So work that an answer did not see was enqueued after the flag was cleared, and a
message is sent for it. A message that gets lost is sent again by the sweeper.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from handbell.common import broker

MIN_RING_BACKOFF_SECONDS, MAX_RING_BACKOFF_SECONDS = 2, 64
ALWAYS_SENT_RINGS = 8
MAX_RING_ATTEMPTS = 1000  # there may be no answer for weeks, and the column has a limit
MAX_HOOKS_LOOKED_AT = 8  # of the last in a transaction

_RING = """
    INSERT INTO handbell_doorbell (name, rung, rung_at, ring_attempts, crash_count, one_by_one)
    VALUES (%s, %s, %s, 0, 0, 0)
    ON CONFLICT (name) DO UPDATE SET rung = excluded.rung, rung_at = excluded.rung_at, ring_attempts = 0
    WHERE NOT handbell_doorbell.rung
"""
_RING_AGAIN = """
    UPDATE handbell_doorbell SET ring_attempts = %s, rung_at = %s
    WHERE name = %s AND rung AND ring_attempts = %s AND rung_at < %s
"""

_UNCOUNT = "UPDATE handbell_doorbell SET ring_attempts = %s WHERE name = %s AND rung AND ring_attempts = %s"

#: For the tasks that answer doorbells: the time limits that a project sets for all tasks are for what they run.
NO_LIMIT_SECONDS = 7 * 86_400


class DoorbellMessage(NamedTuple):
    """A doorbell by its name, and the message that ringing it sends."""

    name: str
    task: str
    args: Sequence[Any]
    queue: str

    def ring_after_commit(self) -> None:
        """Ring once the transaction is committed, and once only, however often it is called in it."""
        if not self._is_to_ring():
            transaction.on_commit(self.ring, robust=True)  # if that fails the caller's work is safe all the same

    def _is_to_ring(self) -> bool:
        """Whether it rings after the commit already. What may still take that back takes back what is called now, too:
        a savepoint that is open.
        """
        hooks: list[Any] = connection.run_on_commit[-MAX_HOOKS_LOOKED_AT:]
        return any(getattr(hook, "__self__", None) == self for _, hook, _ in hooks)

    def ring(self) -> None:
        """Send the message, unless one is on its way."""
        with connection.cursor() as cursor:
            # Reading first avoids the write: under load the flag is nearly always set.
            cursor.execute("SELECT 1 FROM handbell_doorbell WHERE name = %s AND rung", (self.name,))
            if cursor.fetchone() is not None:
                return
            cursor.execute(_RING, (self.name, True, adapt_datetime(timezone.now())))
            changed = cursor.rowcount > 0
        if changed:
            self.send()

    def ring_again(self) -> None:
        """For the sweeper, where work waits: ring, or send the message again if it has gone unanswered for too long."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT rung, ring_attempts FROM handbell_doorbell WHERE name = %s", (self.name,))
            found = cursor.fetchone()
            if found is not None and found[0]:
                attempts, now = int(found[1]), timezone.now()
                late_since = adapt_datetime(now - ring_backoff(attempts, self.queue))
                next_attempts = min(attempts + 1, MAX_RING_ATTEMPTS)
                cursor.execute(_RING_AGAIN, (next_attempts, adapt_datetime(now), self.name, attempts, late_since))
                late = cursor.rowcount > 0
        if found is None or not found[0]:
            self.ring()  # the process that enqueued crashed before it could
        elif late and may_have_been_lost(attempts, self.queue) and not self.send():
            self._uncount(attempts, next_attempts)

    def send(self) -> bool:
        """Send the message; whether that could be done. If the broker is down the sweeper sends it later: the work is
        safe in the ledger.
        """
        return broker.send_message(self.task, self.args, self.queue, f"The doorbell {self.name}")

    def _uncount(self, attempts: int, next_attempts: int) -> None:
        """The broker was away: nobody can have answered, so that is no reason to wait longer."""
        with connection.cursor() as cursor:
            cursor.execute(_UNCOUNT, (attempts, self.name, next_attempts))

    def answer(self) -> None:
        """Clear the flag, before looking for work."""
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE handbell_doorbell SET rung = %s, ring_attempts = 0 WHERE name = %s AND rung", (False, self.name)
            )


def ring_backoff(ring_attempts: int, queue: str) -> timedelta:
    """How long a doorbell may go unanswered before it is rung again: two seconds where its queue is empty. Otherwise
    its message may be waiting behind others, so each time twice as long as before, up to 64 s.
    """
    if broker.is_queue_empty(queue):
        return timedelta(seconds=MIN_RING_BACKOFF_SECONDS)
    return timedelta(seconds=min(MIN_RING_BACKOFF_SECONDS * 2**ring_attempts, MAX_RING_BACKOFF_SECONDS))


def may_have_been_lost(ring_attempts: int, queue: str) -> bool:
    """Whether to send a message again that has gone unanswered: for a few minutes always, later only once its queue is
    empty. Where no worker takes a queue, messages would pile up in it.
    """
    return ring_attempts <= ALWAYS_SENT_RINGS or broker.is_queue_empty(queue)


def adapt_datetime(moment: datetime | None) -> Any:
    """A moment as a parameter of a statement."""
    return connection.ops.adapt_datetimefield_value(moment)
