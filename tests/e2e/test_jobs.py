"""A job's page: found by the job's name and watched live; the job is paused, resumed and cancelled."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from handbell import Job, over
from tasks_app.tasks import fibonacci, remainder
from tests.e2e.conftest import Site
from tests.e2e.steps import scrolls_sideways

pytestmark = pytest.mark.browser


def start_endless_and_broken_jobs() -> int:
    """Runs inside the system. The id of the broken job, which has failed."""
    Job.objects.filter(name__in=["endless", "broken"]).delete()
    over(range(10**9)).map(remainder, 16).map(fibonacci).start("cpu", name="endless")
    items: list[Any] = [1, "one", 2]
    return int(over(items).map(fibonacci).start("cpu", name="broken").wait(60).pk)


@pytest.mark.core
def test_a_job_is_found_watched_paused_and_cancelled(page: Page, site: Site) -> None:
    broken = site.up.system.call(start_endless_and_broken_jobs, timeout=90)
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
    expect(page.get_by_role("button", name="Retry failed items")).to_be_visible()
