"""An entry's page does not wait for the work that it triggers."""

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
MEASURED = "performance.getEntriesByType('resource').findLast(e => e.name.includes('/numbers/')).responseEnd"


def test_an_entry_is_shown_at_once_and_its_numbers_arrive_without_a_reload(page: Page) -> None:
    page.goto("/")
    entry = page.locator(".entries a").last
    visits = int((entry.locator(".entry-visits").inner_text()).split()[0])
    entry.click()

    numbers = page.locator("#numbers")
    expect(numbers).to_have_attribute("data-state", "fresh")
    page.get_by_role("button", name="Count a visit").click()
    expect(numbers).to_have_attribute("data-state", "waiting")
    expect(page.locator(".prose")).to_be_visible()
    page.evaluate("window.sameDocument = true")
    expect(numbers).to_have_attribute("data-state", "fresh", timeout=15_000)
    expect(numbers.locator("dd").first).to_have_text(str(visits + 1))
    expect(numbers).not_to_contain_text("…")

    assert page.evaluate("window.sameDocument")
    assert page.evaluate(PAINTED) < page.evaluate(MEASURED)
