"""Work is started from the pages only so many times a minute: by one user, and by all of them together."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db.models import F
from django.test import Client

from tasks_app.models import Entry, Run, Throttle
from tasks_app.throttle import TooManyStarts, count_start
from tests.unit.conftest import Message

pytestmark = pytest.mark.django_db

Sent = Callable[[], list[Message]]
MakeUser = Callable[..., User]
INPUTS = {"n": 1, "count": 1}
MAY_START = ("view_run", "add_run", "view_entry")


@pytest.fixture(autouse=True)
def _limits(settings: LazySettings) -> None:
    settings.STARTS_PER_MINUTE_PER_USER = 3
    settings.STARTS_PER_MINUTE = 5


def later(seconds: float) -> None:
    """As if so many seconds had passed."""
    Throttle.objects.update(used_up_until=F("used_up_until") - timedelta(seconds=seconds))


def counted(user: User, times: int) -> int:
    """How many of so many starts are let through."""
    let_through = 0
    for _ in range(times):
        try:
            count_start(user)
            let_through += 1
        except TooManyStarts:
            pass
    return let_through


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_a_user_may_start_so_many_at_once_and_then_as_many_as_a_minute_allows(make_user: MakeUser) -> None:
    user = make_user("someone")

    assert counted(user, 10) == 3
    later(20)
    assert counted(user, 10) == 1
    later(3600)
    assert counted(user, 10) == 3


@pytest.mark.parametrize("limit", [1, 7, 59, 60])
def test_the_limit_is_kept_to_the_last_one(limit: int, make_user: MakeUser, settings: LazySettings) -> None:
    settings.STARTS_PER_MINUTE_PER_USER, settings.STARTS_PER_MINUTE = limit, 10_000

    started = time.monotonic()
    found = counted(make_user("someone"), limit + 1)
    drained = (time.monotonic() - started) * limit / 60  # meanwhile
    assert limit <= found <= limit + drained


def test_one_user_does_not_use_up_what_others_may_start_but_all_together_have_a_limit(make_user: MakeUser) -> None:
    users = [make_user(name) for name in ("ada", "grace", "barbara")]

    assert [counted(user, 10) for user in users] == [3, 2, 0]
    with pytest.raises(TooManyStarts, match=r"^All users together may start work 5 times a minute\. Try again in"):
        count_start(users[2])


def test_what_is_refused_is_not_counted_for_anybody(make_user: MakeUser) -> None:
    ada, grace = make_user("ada"), make_user("grace")
    counted(ada, 100)
    assert counted(grace, 2) == 2
    later(20)
    assert counted(grace, 1) == 1


def test_the_sentence_says_when_to_try_again_and_then_it_works(make_user: MakeUser) -> None:
    user = make_user("someone")
    counted(user, 3)

    with pytest.raises(TooManyStarts, match=r"^You may start work 3 times a minute\. Try again in 20 seconds\.$") as it:
        count_start(user)
    later(it.value.retry_seconds)
    count_start(user)


def test_a_clock_that_was_set_back_shuts_nobody_out_for_longer_than_a_minute(make_user: MakeUser) -> None:
    user = make_user("someone")
    counted(user, 3)
    later(-365 * 86400)

    with pytest.raises(TooManyStarts) as refused:
        count_start(user)
    assert refused.value.retry_seconds <= 60


# --- On the pages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}], ids=["plain", "htmx"])
def test_a_start_too_many_starts_nothing_and_its_form_says_why(
    headers: dict[str, str], make_user: MakeUser, sent: Sent
) -> None:
    browser = browser_of(make_user("someone", *MAY_START))
    for _ in range(3):
        assert browser.post("/start/fibonacci/", INPUTS, headers=headers).status_code in {200, 302}
    refused = browser.post("/start/fibonacci/", {**INPUTS, "n": 7}, headers=headers)

    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 20
    shown = refused.content.decode()
    assert f"Try again in {refused.headers['Retry-After']} seconds." in shown
    assert 'value="7"' in shown
    assert (Run.objects.count(), len(sent())) == (3, 3)


def test_a_visit_counts_as_a_start(make_user: MakeUser, sent: Sent) -> None:
    entry = Entry.objects.create(title="t", body="b")
    browser = browser_of(make_user("someone", *MAY_START))
    statuses = [browser.post(f"/entries/{entry.pk}/").status_code for _ in range(4)]

    assert statuses == [302, 302, 302, 429]
    refused = browser.post(f"/entries/{entry.pk}/")
    assert "This visit is not counted. You may start work 3 times a minute." in refused.content.decode()
    assert "Retry-After" in refused.headers
    assert len(sent()) == 3


def test_what_is_filled_in_wrongly_or_only_looked_at_does_not_count(make_user: MakeUser, sent: Sent) -> None:
    browser = browser_of(make_user("someone", *MAY_START))
    wrong: dict[str, Any] = {"n": "x", "count": 1}
    for _ in range(10):
        assert browser.post("/start/fibonacci/", wrong, headers={"HX-Request": "true"}).status_code == 200
        assert browser.get("/").status_code == 200

    assert browser.post("/start/fibonacci/", INPUTS).status_code == 302
    assert len(sent()) == 1
