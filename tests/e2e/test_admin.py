"""The admin: what became of every task, and what beat will start."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Site
from tests.e2e.steps import scrolls_sideways
from tests.servers import wait_for

pytestmark = pytest.mark.browser


def open_results(page: Page) -> None:
    page.goto("/admin/")
    page.locator(".overview").get_by_role("link", name="Task results").click()


def test_every_page_that_the_overview_leads_to_opens_and_fits(page: Page) -> None:
    page.goto("/admin/")
    links = page.locator(".overview a")
    expect(links.first).to_be_visible()
    for address in links.evaluate_all("links => links.map(link => link.href)"):
        page.goto(address)
        expect(page.locator("#changelist")).to_be_attached()
        assert not scrolls_sideways(page), address
    page.goto("/admin/auth/user/1/change/")
    expect(page.get_by_text("Available user permissions")).to_be_visible()
    assert not scrolls_sideways(page)


def test_task_results_are_filtered_by_state(page: Page, site: Site) -> None:
    open_results(page)
    rows = page.locator("#result_list")
    for state in ("succeeded", "failed"):
        page.get_by_role("navigation", name="By state").get_by_role("link", name=state).click()
        expect(page.get_by_role("link", name=state)).to_have_attribute("aria-current", "true")
        assert set(rows.locator(".task-state").all_inner_texts()) == {state}
    expect(rows).to_contain_text(site.failed[:8])
    expect(rows).not_to_contain_text(site.succeeded[:8])


@pytest.mark.core
def test_a_failed_task_is_found_by_the_start_of_its_id_and_says_what_went_wrong(page: Page, site: Site) -> None:
    open_results(page)
    page.locator("#searchbar").fill(site.failed[:10])
    page.locator("#searchbar").press("Enter")
    found = page.locator("#result_list .task-name")
    expect(found).to_have_text("tasks_app.tasks.update_metrics")
    found.click()

    about, came_out, went_in = (page.locator("fieldset").nth(index) for index in range(3))
    expect(about.locator(".task-state")).to_have_text("failed")
    expect(about).to_contain_text(site.failed)
    expect(came_out).to_contain_text("DoesNotExist: Entry matching query does not exist.")
    expect(came_out).to_contain_text("Traceback (most recent call last):")
    expect(went_in).to_contain_text("(0,)")
    expect(page.get_by_role("button", name="Save")).to_have_count(0)


def test_the_nightly_deletion_is_edited_and_beat_notices(page: Page, site: Site) -> None:
    def edit() -> None:
        page.goto("/admin/django_celery_beat/periodictask/")
        page.get_by_role("link", name="Delete old results", exact=True).click()

    edit()
    page.get_by_label("Enabled").uncheck()
    page.get_by_label("Description").fill("Not on this machine.")
    noticed = site.up.output().count("Schedule changed")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was changed successfully")).to_be_visible()
    edit()
    expect(page.get_by_label("Enabled")).not_to_be_checked()
    expect(page.get_by_label("Description")).to_have_value("Not on this machine.")
    wait_for(lambda: site.up.output().count("Schedule changed") > noticed, "beat notices")
