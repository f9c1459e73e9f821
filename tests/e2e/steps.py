"""What people do and see on the pages, in a few words."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Locator, Page, expect


def card(page: Page, slug: str) -> Locator:
    return page.locator(f"#card-{slug}")


def fill(page: Page, slug: str, inputs: dict[str, str]) -> None:
    for label, value in inputs.items():
        card(page, slug).get_by_label(label).fill(value)


@contextmanager
def answered(page: Page, slug: str) -> Iterator[None]:
    """The block sends a workload's form; afterwards its card is the server's answer, and no longer the former one."""
    card(page, slug).evaluate("card => card.dataset.former = true")
    yield
    expect(page.locator(f"#card-{slug}:not([data-former])")).to_be_visible()


def start(page: Page, slug: str, inputs: dict[str, str]) -> None:
    fill(page, slug, inputs)
    with answered(page, slug):
        card(page, slug).get_by_role("button", name="Start").click()


def expect_success(page: Page, slug: str, verdict: str) -> None:
    run = card(page, slug).locator(".run")
    expect(run).to_have_attribute("data-state", "succeeded", timeout=60_000)
    expect(run.locator(".verdict")).to_contain_text(verdict)


def scrolls_sideways(page: Page) -> bool:
    width, shown = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return int(width) > int(shown)
