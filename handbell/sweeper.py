"""The sweeper: every second, what was lost or left behind is found and sent or given back, so that nothing is stuck.

It is a thread in the main process of each worker. One of them at a time has the turn, and sweeps the database; the
others watch it, and one takes over when it falls silent. Each looks after the dead processes of its own machine.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from celery.signals import worker_ready, worker_shutting_down
from django.db import Error, connection

from handbell.common.claims import WORKER_ID, new_claim_token
from handbell.common.fork_lock import no_fork
from handbell.common.leases import SilenceWatch
from handbell.common.process_id import is_dead
from handbell.isolated.sweep import end_orphans_here, sweep_launches
from handbell.models import SweeperTurn
from handbell.parallel.sweep import sweep_jobs
from handbell.plain.sweep import sweep_calls
from handbell.recovery import SilentOwners, recover_from_dead_processes
from handbell.serial.sweep import sweep_lanes

INTERVAL_SECONDS, JITTER_SECONDS = 1.0, 0.2
KEEP_SECONDS = 0.5  # between two signs of life of whoever has the turn
MAX_SILENCE_SECONDS = 4.0  # of whoever has the turn, before another sweeper takes it
logger = logging.getLogger(__name__)
_stopped = threading.Event()


class Turn:
    """The turn to sweep, as this sweeper sees it."""

    def __init__(self) -> None:
        self._token: int | None = None
        self._kept_at = 0.0
        self._watch: SilenceWatch[int | None] = SilenceWatch()

    def is_ours(self) -> bool:
        """Whether to sweep now: we have the turn, or could take it."""
        if self._token is not None:
            now = time.monotonic()
            if now - self._kept_at < KEEP_SECONDS:
                return True
            if SweeperTurn.keep(self._token):
                self._kept_at = now
                return True
            self._token = None
        turn, _ = SweeperTurn.objects.get_or_create(pk=1)
        self._watch.look({turn.claim_token: turn.beats})
        is_free = turn.claim_token is None or is_dead(turn.claimed_by)
        if not is_free and turn.claim_token not in self._watch.silent(MAX_SILENCE_SECONDS):
            return False
        token = new_claim_token()
        if turn.take_over(WORKER_ID, token):
            self._token, self._kept_at = token, time.monotonic()
        return self._token is not None

    def give_up(self) -> None:
        if self._token is not None:
            SweeperTurn.give_up(self._token)


class Sweeper:
    """What the thread does."""

    def __init__(self) -> None:
        self.turn = Turn()
        silent = SilentOwners()
        self.always: tuple[Callable[[], None], ...] = (recover_from_dead_processes, end_orphans_here)
        self.in_turn: tuple[Callable[[], None], ...] = (
            silent.recover,
            sweep_lanes,
            sweep_jobs,
            sweep_launches,
            sweep_calls,
        )

    def run(self) -> None:
        """Sweep until the worker stops. A database that does not answer is asked again with a new connection."""
        while not _stopped.wait(INTERVAL_SECONDS + random.uniform(-JITTER_SECONDS, JITTER_SECONDS)):  # noqa: S311
            self.sweep()
        _attempt(self.turn.give_up)

    def sweep(self) -> None:
        """Sweep once."""
        for look in self.always:
            _attempt(look)
        for look in self.in_turn:
            if not _attempt(self.turn.is_ours):
                return
            _attempt(look)


def _attempt(look: Callable[[], Any]) -> Any:
    try:
        with no_fork():
            return look()
    except Error as error:
        logger.warning("The sweeper could not look: %s. It looks again in a moment.", str(error).strip())
    except Exception:
        logger.exception("The sweeper failed. It looks again in a moment.")
    connection.close()
    return None


@worker_ready.connect
def start(**kwargs: Any) -> None:
    threading.Thread(target=Sweeper().run, name="sweeper", daemon=True).start()


@worker_shutting_down.connect
def stop(**kwargs: Any) -> None:
    _stopped.set()
