"""The home page: each workload is started from its form, watched, and judged."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.conftest import Site, Watch
from tests.e2e.steps import answered, card, expect_success, fill, start

pytestmark = pytest.mark.browser

#: What is entered into each form, and what is said of the outcome.
WORKLOADS = {
    "launches": ({"Launches at most": "2"}, "2 of 2 ended at the deadline of 2 s"),
    "periodic": ({}, "deleted 1 task result, 0 group results, "),
    "visits": ({"Visits": "2"}, "2 visits measured"),
    "words": (
        {"Pages, one a line": "{url}/samples/cmath/ {url}/samples/stat/", "Words to count": "the"},
        "2 pages: the",
    ),
    "jobs": (
        {"Fibonacci numbers": "300", "Up to n": "5", "Ids": "20"},
        "300 numbers right, 20 rows saved, 8 pages; ",
    ),
    "serial": ({"Counter": "clicks", "Threads": "2", "Increments each": "3"}, "6 and 6 of 6 increments counted"),
    "fibonacci": ({"Up to n": "5", "How many tasks": "12"}, "12 of 12 right"),
    "identifiers": (
        {"How many ids": "10", "Ids in a chunk": "5"},
        "10 ids three ways; 10 rows saved; summary: 2 chunks",
    ),
}


@pytest.mark.core
def test_every_workload_is_started_from_its_form_and_succeeds(page: Page, site: Site) -> None:
    page.goto("/")
    for slug, (inputs, _) in WORKLOADS.items():
        start(page, slug, {label: value.format(url=site.url) for label, value in inputs.items()})
    for slug, (_, verdict) in WORKLOADS.items():
        expect_success(page, slug, verdict)


def test_a_run_is_shown_while_it_is_at_work_and_again_after_a_reload(page: Page) -> None:
    page.goto("/")
    start(page, "visits", {"Visits": "1"})
    run = card(page, "visits").locator(".run")
    expect(run).to_have_attribute("data-state", "running")
    expect(run).to_contain_text("0 of 1 finished")
    page.reload()
    expect_success(page, "visits", "1 visits measured")
    expect(run).to_contain_text("by admin")


def test_a_mistake_is_named_next_to_its_field_and_nothing_starts(page: Page) -> None:
    page.goto("/")
    before = card(page, "identifiers").locator(".run").text_content() or ""
    fill(page, "identifiers", {"How many ids": "7", "Ids in a chunk": "0"})
    with answered(page, "identifiers"):
        card(page, "identifiers").get_by_role("button", name="Start").click()

    wrong = card(page, "identifiers").locator(".field.wrong")
    expect(wrong).to_have_count(1)
    expect(wrong).to_contain_text("Ids in a chunk")
    expect(wrong).to_contain_text("Ensure this value is greater than or equal to 1.")
    expect(card(page, "identifiers").get_by_label("How many ids")).to_have_value("7")
    expect(card(page, "identifiers").locator(".run")).to_have_text(before)


@pytest.fixture
def page_without_javascript(browser: Browser, site: Site, session: BrowserContext, watch: Watch) -> Iterator[Page]:
    cookies = session.storage_state()
    with browser.new_context(base_url=site.url, storage_state=cookies, java_script_enabled=False) as context:
        yield watch.over(context.new_page())


def test_without_javascript_start_leads_back_to_the_home_page(page_without_javascript: Page) -> None:
    page = page_without_javascript
    page.goto("/")
    fill(page, "fibonacci", {"Up to n": "99", "How many tasks": "3"})
    card(page, "fibonacci").get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="Workloads")).to_be_visible()
    expect(card(page, "fibonacci").locator(".field.wrong")).to_contain_text("less than or equal to 35")

    fill(page, "fibonacci", {"Up to n": "9"})
    card(page, "fibonacci").get_by_role("button", name="Start").click()
    page.wait_for_url("/")
    expect(card(page, "fibonacci").locator(".run")).to_contain_text("of 3 finished")


def test_the_workers_are_named(page: Page) -> None:
    page.goto("/")
    expect(page.locator(".system")).to_have_text("5 workers answer: cpu, high, io, isolated, serial")


def test_a_server_that_is_gone_is_said_and_the_next_start_works(page: Page, watch: Watch) -> None:
    watch.expected = ("ERR_CONNECTION_REFUSED", "htmx:")
    page.goto("/")
    fill(page, "fibonacci", {"Up to n": "3", "How many tasks": "2"})
    page.route("**/start/**", lambda route: route.abort("connectionrefused"), times=1)
    card(page, "fibonacci").get_by_role("button", name="Start").click()
    expect(page.locator("#connection")).to_contain_text("The web server does not answer.")

    start(page, "fibonacci", {})
    expect_success(page, "fibonacci", "2 of 2 right")
    expect(page.locator("#connection")).to_be_hidden()
