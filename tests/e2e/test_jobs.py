"""A job's page: found by its name, watched live, paused, resumed and cancelled."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Site
from tests.e2e.steps import scrolls_sideways

pytestmark = pytest.mark.browser

START = """
from tasks_app.models import Job
from tasks_app.parallel import over
from tasks_app.tasks import fibonacci, remainder
Job.objects.filter(name__in=["endless", "broken"]).delete()
over(range(10**9)).map(remainder, 16).map(fibonacci).start("cpu", name="endless")
answer = over([1, "one", 2]).map(fibonacci).start("cpu", name="broken").wait(60).pk"""


def test_a_job_is_found_watched_paused_and_cancelled(page: Page, site: Site) -> None:
    broken = site.up.system.python(START)
    page.goto("/")
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.get_by_label("Name").fill("endless")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("table.jobs tbody tr")).to_have_count(1)
    page.get_by_role("link", name="endless").click()
    job = page.locator("#job")
    expect(job).to_have_attribute("data-state", "running")
    done = job.locator(".figures dd").first
    before = done.inner_text()
    expect(done).not_to_have_text(before, timeout=10_000)  # without a reload
    expect(job.locator("polyline")).to_be_attached()
    assert not scrolls_sideways(page)

    page.get_by_role("button", name="Pause").click()
    expect(job).to_have_attribute("data-state", "paused")
    page.get_by_role("button", name="Resume").click()
    expect(job).to_have_attribute("data-state", "running")
    page.get_by_role("button", name="Cancel").click()
    expect(job).to_have_attribute("data-state", "cancelled")
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)

    page.goto(f"/jobs/{broken}/")
    expect(job).to_have_attribute("data-state", "failed")
    page.locator("details.failure summary").click()
    expect(page.locator("details.failure")).to_contain_text("Traceback")
    expect(page.get_by_role("button", name="Retry what failed")).to_be_visible()
