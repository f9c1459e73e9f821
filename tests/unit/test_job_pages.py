"""A job's page and the command: what they show, and who may steer."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from handbell import Job, over
from handbell.models import Chunk
from tests.jobs import add, pick, run_jobs, start_child

pytestmark = pytest.mark.django_db
HTML = "<script>alert(1)</script>"


@pytest.fixture
def failed_job() -> Job:
    job = over(["raise", 2, HTML]).map(pick).start(name=f"the {HTML}")
    run_jobs()
    job.refresh_from_db()
    return job


def browser(make_user: Callable[..., User], *permissions: str) -> Client:
    client = Client()
    client.force_login(make_user("someone", *permissions))
    return client


@pytest.mark.parametrize("address", ["/jobs/", "/jobs/{}/", "/jobs/{}/progress/"])
def test_who_may_see_jobs_sees_them(address: str, failed_job: Job, make_user: Callable[..., User]) -> None:
    address = address.format(failed_job.pk)
    assert Client().get(address).status_code == 302
    assert browser(make_user).get(address).status_code == 403

    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    answer = client.get(address)
    assert answer.status_code == 200
    assert "failed" in answer.content.decode()
    assert HTML not in answer.content.decode()


def test_the_page_of_a_job_shows_its_chunks_failures_and_children(make_user: Callable[..., User]) -> None:
    parent = over([2, 3]).map(start_child).start()
    run_jobs()
    text = browser(make_user, "view_job").get(f"/jobs/{parent.pk}/").content.decode()

    assert "Started by its items" in text
    assert "<polyline" in text
    assert "hx-get" not in text.partition('id="job"')[2].partition(">")[0]  # it has finished
    assert "<button" not in text.partition("<main")[2]  # nothing to steer without the permission


def test_the_list_is_searched_by_name_and_survives_rubbish(failed_job: Job, make_user: Callable[..., User]) -> None:
    client = browser(make_user, "view_job")
    for name, found in (("the", True), ("THE", True), ("nothing like it", False), ("\0", True)):
        text = client.get("/jobs/", {"name": name, "page": "x"}).content.decode()
        assert (f'href="/jobs/{failed_job.pk}/"' in text) is found
    assert client.get("/jobs/999999/").status_code == 404


def test_only_who_may_change_jobs_steers_them(make_user: Callable[..., User]) -> None:
    job = over([1, 2]).map(pick).start()
    client = browser(make_user, "view_job")
    assert client.post(f"/jobs/{job.pk}/pause/").status_code == 403
    client = Client()
    client.force_login(make_user("steerer", "view_job", "change_job"))
    assert client.get(f"/jobs/{job.pk}/pause/").status_code == 405
    assert client.post(f"/jobs/{job.pk}/explode/").status_code == 404
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="steerer"))
    assert strict.post(f"/jobs/{job.pk}/pause/").status_code == 403

    assert client.post(f"/jobs/{job.pk}/pause/").status_code == 302
    job.refresh_from_db()
    assert job.paused
    text = client.post(f"/jobs/{job.pk}/pause/", follow=True).content.decode()
    assert "is paused, so it cannot be paused" in text
    assert "Resume" in text


def run(*arguments: Any) -> str:
    output = StringIO()
    call_command("handbell", "jobs", *map(str, arguments), stdout=output)
    return output.getvalue()


def test_the_command_lists_and_exports(failed_job: Job) -> None:
    assert "failed" in run() == run("list")
    assert "the <script" in run("list", "--name", "the")
    assert str(failed_job.pk) not in run("list", "--name", "other")
    assert [json.loads(line) for line in run("results", failed_job.pk).splitlines()] == [None, 2, HTML]
    (failure,) = (json.loads(line) for line in run("failures", failed_job.pk).splitlines())
    assert (failure["index"], failure["item"]) == (0, '"raise"')
    assert "failed, 2 done, 1 failed" in run("watch", failed_job.pk)


def test_the_command_steers(monkeypatch: pytest.MonkeyPatch) -> None:
    job = over([1, 2, 3]).map(pick).reduce(add).start()
    for action, status in (("pause", "queued"), ("resume", "queued"), ("cancel", "cancelled")):
        assert f"Job {job.pk}" in run(action, job.pk)
        job.refresh_from_db()
        assert job.status == status
    with pytest.raises(CommandError, match="is cancelled, so it cannot be paused"):
        run("pause", job.pk)
    with pytest.raises(CommandError, match="nothing to retry"):
        run("retry", job.pk)
    run("delete", job.pk)
    with pytest.raises(CommandError, match="There is no job"):
        run("watch", job.pk)


def test_a_job_that_goes_on_is_not_deleted() -> None:
    job = over([1]).map(pick).start()
    with pytest.raises(CommandError, match="Cancel it first"):
        run("delete", job.pk)


def test_deleting_a_job_in_the_admin_reads_none_of_its_results_and_leaves_none(admin_client: Client) -> None:
    job = over(range(30)).map(pick).start(chunk_size=3)
    goes_on = over([1]).map(pick).start()
    run_jobs()
    Job.objects.filter(pk=goes_on.pk).update(status="running")
    address = "/admin/handbell/job/"
    data = {"action": "delete_selected", "_selected_action": [job.pk], "index": 0, "post": "yes"}
    with CaptureQueriesContext(connection) as queries:
        assert admin_client.get(f"{address}{job.pk}/delete/").status_code == 200
        assert admin_client.post(address, data).status_code == 302

    assert not [it["sql"] for it in queries if it["sql"].startswith("SELECT") and '"results"' in it["sql"]]
    assert list(Job.objects.all()) == [goes_on]
    assert set(Chunk.objects.values_list("job", flat=True)) == {goes_on.pk}

    refused = admin_client.post(address, {**data, "_selected_action": [goes_on.pk]})
    assert "it has not finished" in refused.content.decode()
    assert admin_client.post(f"{address}{goes_on.pk}/delete/", {"post": "yes"}).status_code == 403
    assert list(Job.objects.all()) == [goes_on]
