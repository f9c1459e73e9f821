"""Passwords are not guessed without limit, neither on the site's page nor on the admin's; nobody else is shut out."""

from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.conf import LazySettings, settings
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponseBase
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from project.login_attempts import client_address

pytestmark = pytest.mark.django_db

PASSWORD = "the right password"
PAGES = pytest.mark.parametrize("page", ["/login/", "/admin/login/"])
LIMIT = settings.AXES_FAILURE_LIMIT


@pytest.fixture(autouse=True)
def ada(settings: LazySettings) -> User:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a quick one
    return User.objects.create_superuser("ada", password=PASSWORD)


def sign_in(page: str, password: str, username: str = "ada", address: str = "192.0.2.1") -> HttpResponseBase:
    return Client(REMOTE_ADDR=address).post(page, {"username": username, "password": password})


def lock_out(page: str, address: str = "192.0.2.1") -> HttpResponseBase:
    """The answer to the last failure before nothing more is tried."""
    answers = [sign_in(page, f"wrong {number}", address=address) for number in range(LIMIT)]
    assert [answer.status_code for answer in answers[:-1]] == [200] * (LIMIT - 1)
    return answers[-1]


@PAGES
def test_after_some_failures_not_even_the_right_password_is_tried_and_the_page_says_why(page: str) -> None:
    last = lock_out(page)

    assert last.status_code == 429
    for answer in (last, sign_in(page, PASSWORD)):
        assert answer.status_code == 429
        text = " ".join(answer.content.decode().split())  # type: ignore[attr-defined]
        assert "Too many failed attempts to sign in as <b>ada</b>" in text
        assert "Try again in 15 minutes" in text


def test_what_is_tried_on_one_page_counts_on_the_other() -> None:
    lock_out("/admin/login/")

    assert sign_in("/login/", PASSWORD).status_code == 429


@PAGES
def test_no_other_person_and_no_other_address_is_shut_out(page: str) -> None:
    User.objects.create_superuser("grace", password=PASSWORD)
    lock_out(page)

    assert sign_in(page, PASSWORD, username="grace").status_code == 302
    assert sign_in(page, PASSWORD, address="192.0.2.2").status_code == 302


def test_another_browser_does_not_give_more_attempts() -> None:
    for number in range(LIMIT):
        last = Client(HTTP_USER_AGENT=f"browser {number}").post("/login/", {"username": "ada", "password": "wrong"})

    assert last.status_code == 429


def test_the_right_password_clears_the_failures_before_it() -> None:
    for _ in range(3):
        for _ in range(LIMIT - 1):
            assert sign_in("/login/", "wrong").status_code == 200
        assert sign_in("/login/", PASSWORD).status_code == 302


def test_after_the_cool_off_it_may_be_tried_again_and_trying_meanwhile_does_not_prolong_it() -> None:
    lock_out("/login/")
    AccessAttempt.objects.update(attempt_time=timezone.now() - settings.AXES_COOLOFF_TIME + timedelta(seconds=30))
    assert sign_in("/login/", PASSWORD).status_code == 429
    AccessAttempt.objects.update(attempt_time=timezone.now() - settings.AXES_COOLOFF_TIME - timedelta(seconds=1))

    assert sign_in("/login/", PASSWORD).status_code == 302


@pytest.mark.parametrize("username", ["x" * 5000, "a\0b", "ü" * 300, "a\nb", ""])
def test_no_username_breaks_the_page(username: str) -> None:
    assert sign_in("/login/", "wrong", username=username).status_code == 200


def test_neither_passwords_nor_whatever_else_was_sent_is_kept() -> None:
    Client().post("/login/?next=/secret", {"username": "ada", "password": "hush", "more": "x" * 100_000})

    (attempt,) = AccessAttempt.objects.values()
    assert "hush" not in str(attempt)
    assert len(str(attempt)) < 5000


def test_pages_ask_the_database_no_more_than_without_the_limit(settings: LazySettings, client: Client) -> None:
    client.force_login(User.objects.get())
    numbers = []
    for enabled in (True, False):
        settings.AXES_ENABLED = enabled
        with CaptureQueriesContext(connection) as captured:
            assert client.get("/samples/").status_code == 200
        numbers.append(len(captured))

    assert numbers[0] == numbers[1]


# --- Whose address counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "forwarded", "found"),
    [
        (0, None, "192.0.2.9"),
        (0, "198.51.100.1", "192.0.2.9"),  # nobody has checked it
        (1, None, "192.0.2.9"),
        (1, "198.51.100.1", "198.51.100.1"),
        (1, "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # the first was sent by the client itself
        (2, "6.6.6.6, 198.51.100.1, 10.0.0.1", "198.51.100.1"),
        (2, "198.51.100.1", "192.0.2.9"),  # it has not come through both
        (1, "198.51.100.1:4711", "198.51.100.1"),
        (1, "nonsense", "192.0.2.9"),
        (1, "", "192.0.2.9"),
        (1, "[2001:db8:1:2::3]:4711", "2001:db8:1:2::"),
    ],
)
def test_the_clients_address_is_that_before_the_trusted_proxies(
    proxies: int, forwarded: str | None, found: str, settings: LazySettings
) -> None:
    settings.PROXY_COUNT = proxies
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}

    assert client_address(RequestFactory(REMOTE_ADDR="192.0.2.9", headers=headers).get("/")) == found


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("2001:db8:1:2::3", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),  # whoever has one has all of its network
        ("2001:db8:1:3::3", "2001:db8:1:3::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", None),  # a unix socket has none
    ],
)
def test_one_ipv6_network_counts_as_one_address(address: str, counts_as: str | None) -> None:
    assert client_address(RequestFactory(REMOTE_ADDR=address).get("/")) == counts_as
