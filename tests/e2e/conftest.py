"""A running system of each column, and a browser whose every complaint fails the test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from django.contrib.auth.models import Permission, User
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, sync_playwright

from tasks_app.models import Entry
from tasks_app.tasks import fibonacci, update_metrics
from tests.conftest import CHROMIUM, COLUMNS
from tests.system import Running, System, nothing_is_left

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PASSWORD = "a password for these tests"


@dataclass
class Site:
    """The running system, as its visitors know it: an address, and who may sign in."""

    up: Running
    url: str
    passwords: dict[str, str]
    succeeded: str
    failed: str
    long_entry: str

    def sign_in(self, page: Page, user: str) -> None:
        page.goto("/login/")
        page.get_by_label("Username").fill(user)
        page.get_by_label("Password").fill(self.passwords[user])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("/")


@dataclass
class Watch:
    """What browsers complain about, but for what a test expects."""

    expected: tuple[str, ...] = ()
    complaints: list[str] = field(default_factory=list)

    def over(self, page: Page) -> Page:
        page.on("console", self.console)
        page.on("response", self.response)
        page.on("requestfailed", self.failed)
        page.on("pageerror", lambda error: self.complain(f"error: {error}"))
        return page

    def console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complain(f"console: {message.text} {message.location}")

    def response(self, response: Response) -> None:
        if response.status >= 400:
            self.complain(f"status of {response.status}: {response.url}")

    def failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before the answer came
            self.complain(f"no answer: {request.failure} {request.url}")

    def complain(self, text: str) -> None:
        if not any(words in text for words in self.expected):
            self.complaints.append(text)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Not kept for longer: its event loop would keep the ORM from tests in this process."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


def prepare(password: str) -> list[str]:
    """Who only looks, who may not even do that, one task of each outcome, and an entry that is hard to lay out."""
    reader = User.objects.create_user("reader", password=password)
    reader.user_permissions.set(Permission.objects.filter(codename__in=["view_run", "view_entry"]))
    User.objects.create_user("nobody", password=password)
    good, bad = fibonacci.delay(1), update_metrics.delay(0)
    good.get(timeout=30), bad.get(timeout=30, propagate=False)
    entry = Entry.objects.create(title="Unbreakable" * 15, body="unbreakable" * 90, live=False)
    return [str(good.id), str(bad.id), f"/entries/{entry.pk}/"]


@pytest.fixture(scope="package", params=COLUMNS)
def site(request: pytest.FixtureRequest, make_system: Callable[[str], System]) -> Iterator[Site]:
    system = make_system(request.param)
    with system.up("--no-flower") as up:
        prepared = system.call(prepare, PASSWORD)
        password = up.output().partition("with password ")[2].split()[0]
        passwords = {"admin": password, "reader": PASSWORD, "nobody": PASSWORD}
        yield Site(up, up.state()["web"], passwords, *prepared)
    nothing_is_left(system.folder)


@pytest.fixture(scope="package")
def session(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A browser in which the account `admin` has signed in."""
    with browser.new_context(base_url=site.url) as context:
        with context.new_page() as page:
            site.sign_in(page, "admin")
        yield context


@pytest.fixture
def watch() -> Iterator[Watch]:
    """At the end of a test, nothing may have been complained about."""
    watch = Watch()
    yield watch
    assert watch.complaints == []


@pytest.fixture
def page(session: BrowserContext, watch: Watch) -> Iterator[Page]:
    """A page of the account `admin`."""
    with session.new_page() as page:
        yield watch.over(page)


@pytest.fixture
def visitor(browser: Browser, site: Site, watch: Watch) -> Iterator[Page]:
    """A page of someone who has not signed in."""
    with browser.new_context(base_url=site.url) as context:
        yield watch.over(context.new_page())
