"""The doorbell: the one message that says "launches are waiting", sent once however many callers have some.

A caller rings after its commit: whoever turns the flag from down to up sends the message. A supervisor puts the flag
down before it looks. So a launch that it did not see has found the flag down, and somebody sends a message for it.
"""

from django.db import connection, transaction
from django.utils import timezone

from tasks_app import bell
from tasks_app.models import LaunchBell
from tasks_app.queues import ISOLATED

SUPERVISE = "tasks_app.isolated.supervise"

_RING = """
    INSERT INTO tasks_app_launchbell (id, rung, rung_at, rings) VALUES (1, %s, %s, 0)
    ON CONFLICT (id) DO UPDATE SET rung = excluded.rung, rung_at = excluded.rung_at, rings = 0
    WHERE NOT tasks_app_launchbell.rung
"""


def ring_after_commit() -> None:
    transaction.on_commit(ring, robust=True)


def ring() -> None:
    """Send the doorbell, unless one is on its way."""
    # Reading first spares the write: while many launch, the flag is up nearly always.
    if LaunchBell.objects.filter(pk=1, rung=True).exists():
        return
    with connection.cursor() as cursor:
        cursor.execute(_RING, (True, connection.ops.adapt_datetimefield_value(timezone.now())))
        changed = cursor.rowcount
    if changed:
        send()


def send() -> None:
    """Send the message. If the broker is down the sweeper sends it later: the launch is safe in the ledger."""
    bell.send(SUPERVISE, (), ISOLATED.name, "The doorbell for launches")


def answer() -> None:
    """Put the flag down, before looking for launches."""
    LaunchBell.objects.filter(pk=1, rung=True).update(rung=False, rings=0)
