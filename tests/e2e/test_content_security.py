"""The Content-Security-Policy: everything that is answered has it, no page wants more than it allows, and it holds."""

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Response, expect

from tasks_app.tasks import call_stuck_partner, fibonacci_job, increment_value
from tests.e2e.conftest import Site, Watch

pytestmark = pytest.mark.browser

PAGES = ("/", "/jobs/", "/samples/", "/samples/json/", "/healthz", "/static/site.css")
WITH_ROWS = (
    "handbell/job",
    "handbell/lane",
    "handbell/launch",
    "handbell/operation",
    "django_celery_results/taskresult",
)
POLICY = {
    "default-src 'self'",
    "img-src 'self' data:",
    "object-src 'none'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    "form-action 'self'",
}
ADMIN_POLICY = POLICY | {"script-src 'self' 'unsafe-eval'"}

INJECT = """() => {
  const html = "<p style='position: fixed' onclick='window.wasRun = true'>injected</p>";
  document.body.insertAdjacentHTML("beforeend", html);
  const script = document.createElement("script");
  script.textContent = "window.wasRun = true";
  document.body.append(script);
  document.body.lastElementChild.previousElementSibling.click();
}"""


@pytest.fixture
def checked(page: Page, watch: Watch) -> Page:
    """A page all of whose answers must come with the policy. What it refuses is in the console, which `watch` reads."""
    page.on("response", lambda response: check_policy(response, watch))
    return page


def check_policy(response: Response, watch: Watch) -> None:
    expected = ADMIN_POLICY if urlsplit(response.url).path.startswith("/admin/") else POLICY
    found = set(response.headers.get("content-security-policy", "").split("; "))
    if found != expected:
        watch.complain(f"policy of {response.url}: {found}")


def make_rows() -> list[int]:
    """Runs inside the system. A job that has finished, after a launch and an operation."""
    call_stuck_partner.launch(0)
    increment_value.delay("content security").get(timeout=30)
    return [fibonacci_job(100, 5).wait(60).pk]


@pytest.mark.core
def test_no_page_of_the_site_wants_what_the_policy_forbids(checked: Page, site: Site) -> None:
    (job,) = site.up.system.call(make_rows, timeout=120)
    for path in (*PAGES, f"/jobs/{job}/"):
        checked.goto(path)
    checked.goto("/")
    checked.locator(".entries a").last.click()
    checked.get_by_role("button", name="Count a visit").click()
    expect(checked.locator("#numbers")).to_have_attribute("data-state", "fresh", timeout=15_000)


def test_nor_does_a_page_for_visitors(visitor: Page, watch: Watch) -> None:
    visitor.on("response", lambda response: check_policy(response, watch))
    visitor.goto("/login/")
    visitor.get_by_label("Username").fill("admin")
    visitor.get_by_label("Password").fill("wrong")
    visitor.get_by_role("button", name="Sign in").click()
    expect(visitor.get_by_role("alert")).to_be_visible()
    visitor.goto("/admin/login/")
    watch.expected = ("status of 404", "404 (Not Found)")
    visitor.goto("/no-such-page/")


def test_nor_does_a_list_or_a_row_of_the_admin(checked: Page, site: Site) -> None:
    site.up.system.call(make_rows, timeout=120)
    checked.goto("/admin/")
    lists = checked.locator(".overview a").evaluate_all("links => links.map(link => link.pathname)")
    opened = {address for address in lists if open_list_and_row(checked, address)}
    assert opened >= {f"/admin/{model}/" for model in WITH_ROWS}


def open_list_and_row(page: Page, address: str) -> bool:
    """Open a list, choose a row for an action, and open one; whether the list has any."""
    page.goto(address)
    expect(page.locator("#changelist")).to_be_attached()
    boxes, rows = page.locator("input.action-select"), page.locator("#result_list a[href$='/change/']")
    if boxes.count():
        boxes.first.check()
        expect(page.locator("#changelist-actions")).to_have_attribute("style", re.compile(r"width: [1-9]"))
    if not rows.count():
        return False
    page.goto(str(rows.first.evaluate("row => row.pathname")))
    expect(page.locator("#content-main")).to_be_attached()
    return True


def test_what_gets_into_a_page_by_mistake_is_neither_run_nor_styled(visitor: Page, watch: Watch) -> None:
    watch.expected = ("Content Security Policy",)
    refused: list[str] = []
    visitor.on("console", lambda message: refused.append(message.text))
    visitor.goto("/login/")
    visitor.evaluate(INJECT)
    assert visitor.evaluate("window.wasRun") is None
    assert visitor.get_by_text("injected").evaluate("text => getComputedStyle(text).position") == "static"
    assert len([text for text in refused if "Content Security Policy" in text]) == 3
