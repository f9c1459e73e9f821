"""Who may do what: signing in and out, and accounts that may only look."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Site, Watch
from tests.e2e.steps import card

pytestmark = pytest.mark.browser

Form = dict[str, str | float | bool]  # as playwright declares it


def test_a_wrong_password_is_said_and_the_right_one_opens_the_page_asked_for(visitor: Page, site: Site) -> None:
    visitor.goto("/samples/")
    visitor.get_by_role("link", name="Sign in").click()
    visitor.goto("/entries/1/")
    for password in ("wrong", site.passwords["admin"]):
        visitor.get_by_label("Username").fill("admin")
        visitor.get_by_label("Password").fill(password)
        visitor.get_by_role("button", name="Sign in").click()
        if password == "wrong":
            expect(visitor.get_by_role("alert")).to_contain_text("Please enter a correct username and password.")
    visitor.wait_for_url("/entries/1/")


def test_whoever_signs_out_is_out(visitor: Page, site: Site) -> None:
    site.sign_in(visitor, "admin")
    visitor.get_by_role("button", name="Sign out").click()
    visitor.wait_for_url("/login/")
    visitor.goto("/")
    expect(visitor.get_by_role("heading", name="Sign in to Tasks")).to_be_visible()


def test_a_session_that_has_ended_leads_to_signing_in(visitor: Page, site: Site) -> None:
    site.sign_in(visitor, "admin")
    visitor.context.clear_cookies(name="sessionid")
    card(visitor, "fibonacci").get_by_role("button", name="Start").click()
    visitor.wait_for_url("/login/?next=/")


def test_an_account_that_may_only_look_sees_no_start_button_and_is_refused(visitor: Page, site: Site) -> None:
    site.sign_in(visitor, "reader")
    expect(visitor.locator(".card.workload")).to_have_count(8)
    expect(visitor.get_by_role("button", name="Start")).to_have_count(0)
    expect(card(visitor, "serial")).to_contain_text("Your account may not start work.")
    expect(card(visitor, "serial").get_by_label("Threads")).to_be_disabled()

    token = visitor.locator("[name=csrfmiddlewaretoken]").first.input_value()
    form: Form = {"name": "forced", "threads": "1", "each": "1", "csrfmiddlewaretoken": token}
    refused = visitor.request.post("/start/serial/", form=form, headers={"Referer": site.url})
    assert refused.status == 403
    assert "Your account may not see this page" in refused.text()


def test_an_account_without_permissions_is_told_whom_to_ask(visitor: Page, site: Site, watch: Watch) -> None:
    watch.expected = ("status of 403",)
    site.sign_in(visitor, "nobody")
    for path in ("/", "/entries/1/"):
        visitor.goto(path)
        expect(visitor.get_by_role("heading", name="Your account may not see this page")).to_be_visible()
    visitor.get_by_role("button", name="Sign out").click()
    visitor.wait_for_url("/login/")
