"""Starts that come at the same moment are counted one by one."""

import time
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections

from tasks_app.throttle import TooManyStarts, count_start
from tests.system import System

LIMIT = 40


def start_side_by_side() -> tuple[int, float]:
    """Runs inside the system: how many of many starts are let through, each on a connection of its own, in how long."""
    settings.STARTS_PER_MINUTE, settings.STARTS_PER_MINUTE_PER_USER = LIMIT, LIMIT - 10
    users = [User.objects.create_user(f"user{number}") for number in range(2)]

    def attempt(number: int) -> bool:
        try:
            count_start(users[number % 2])
        except TooManyStarts:
            return False
        finally:
            connections.close_all()
        return True

    started = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        let_through = sum(pool.map(attempt, range(120)))
    return let_through, time.monotonic() - started


def test_no_start_too_many_is_let_through_however_many_come_at_once(system: System) -> None:
    let_through, seconds = system.call(start_side_by_side)

    assert LIMIT <= let_through <= LIMIT + 1 + seconds * LIMIT / 60
