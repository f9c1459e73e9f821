"""Small screens, dark rooms, and no mouse."""

from typing import Literal

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.e2e.conftest import Site
from tests.e2e.steps import answered, card, expect_success, scrolls_sideways

pytestmark = pytest.mark.browser

SIGNED_IN = ("/", "/jobs/", "/admin/", "/admin/django_celery_results/taskresult/")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PHONE: ViewportSize = {"width": 360, "height": 740}

#: From 0, black, to 1, white; a canvas understands every notation of a colour.
BRIGHTNESS = """() => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = getComputedStyle(document.body).backgroundColor;
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data;
  return (red + green + blue) / 765;
}"""


def looks_right_on_a_phone(page: Page, path: str) -> None:
    page.set_viewport_size(PHONE)
    brightness: dict[str, float] = {}
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.goto(path)
        brightness[scheme] = page.evaluate(BRIGHTNESS)
        assert not scrolls_sideways(page), f"{path} scrolls sideways"
    assert brightness["light"] > 0.9, path
    assert brightness["dark"] < 0.2, path


def test_pages_fit_a_phone_and_are_dark_where_that_is_preferred(page: Page, visitor: Page, site: Site) -> None:
    for path in (*SIGNED_IN, site.long_entry):
        looks_right_on_a_phone(page, path)
    looks_right_on_a_phone(visitor, "/login/")


def test_the_tab_key_reaches_start_and_enter_starts(page: Page) -> None:
    page.goto("/")
    for label in ("Threads", "Increments each"):
        card(page, "serial").get_by_label(label).evaluate("input => { input.value = 2; }")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "start-serial":
            break
    button = page.locator("#start-serial")
    expect(button).to_be_focused()
    assert button.evaluate("button => button.matches(':focus-visible')")
    with answered(page, "serial"):
        page.keyboard.press("Enter")
    expect_success(page, "serial", "4 and 4 of 4 increments counted")
