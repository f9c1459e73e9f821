"""The pages: who may see and start what, what they answer, and how much they ask of the database."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from django.conf import LazySettings, settings
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_results.models import TaskResult

from handbell import states
from handbell.models import Launch, Operation
from tasks_app.models import Entry, Run
from tasks_app.queues import QUEUES
from tasks_app.workloads import WORKLOADS, Verdict
from tasks_app.workloads.words import SAMPLES
from tests.unit.conftest import Message

Sent = Callable[[], list[Message]]
MakeUser = Callable[..., User]
HTMX = {"HX-Request": "true"}

INPUTS: dict[str, dict[str, Any]] = {
    "serial": {"name": "visits", "threads": 1, "each": 1},
    "fibonacci": {"n": 5, "count": 3},
    "identifiers": {"count": 3, "chunk": 2},
    "words": {"urls": "http://127.0.0.1:8000/samples/json/", "words": "the if"},
    "jobs": {"count": 10, "n": 5, "ids": 5},
    "visits": {"visits": 2},
    "launches": {"limit": 2},
    "periodic": {},
}


@pytest.fixture
def visitor(make_user: MakeUser) -> Callable[..., Client]:
    """A browser in which a user with these permissions has signed in."""

    def sign_in(*permissions: str, **options: Any) -> Client:
        found = Client(**options)
        found.force_login(make_user("someone", *permissions))
        return found

    return sign_in


@pytest.fixture
def no_entry(db: None) -> None:
    """Without the examples that a new database begins with."""
    Entry.objects.all().delete()


@pytest.fixture
def entry(no_entry: None) -> Entry:
    return Entry.objects.create(title="The title", body="Some words.")


def text(response: HttpResponseBase) -> str:
    assert isinstance(response, HttpResponse)
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def run_of(slug: str, **inputs: Any) -> Run:
    return Run.objects.create(workload=slug, inputs=inputs, task_ids=["a", "b"])


# --- Who may do what ---------------------------------------------------------------------------------------------

PAGES = {
    "/": "view_run",
    "/runs/{run}/": "view_run",
    "/system/": "view_run",
    "/entries/{entry}/": "view_entry",
    "/entries/{entry}/numbers/": "view_entry",
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_for_those_who_have_signed_in_and_may_see_it(
    page: str, entry: Entry, visitor: Callable[..., Client], client: Client, make_user: MakeUser, sent: Sent
) -> None:
    address = page.format(run=run_of("fibonacci", n=1, count=2).pk, entry=entry.pk)

    anonymous = client.get(address)
    assert (anonymous.status_code, anonymous.headers["Location"]) == (302, f"/login/?next={address}")
    others = {"view_run", "view_entry", "add_run"} - {PAGES[page]}
    assert visitor(*others).get(address).status_code == 403
    client.force_login(make_user("allowed", PAGES[page]))
    allowed = client.get(address)
    assert allowed.status_code == 200
    assert "does not answer" not in text(allowed)
    assert "no-store" in allowed.headers["Cache-Control"]


@pytest.mark.parametrize("slug", [*WORKLOADS, "nonsense"])
def test_starting_is_for_those_who_may(
    slug: str, entry: Entry, visitor: Callable[..., Client], client: Client, sent: Sent
) -> None:
    address = f"/start/{slug}/"

    anonymous = client.post(address, INPUTS.get(slug))
    assert (anonymous.status_code, anonymous.headers["Location"]) == (302, f"/login/?next={address}")
    assert visitor("view_run", "view_entry").post(address, INPUTS.get(slug)).status_code == 403
    assert not Run.objects.exists()
    assert sent() == []


def test_a_post_without_a_token_starts_nothing_and_one_with_it_does(visitor: Callable[..., Client], sent: Sent) -> None:
    browser = visitor("view_run", "add_run", enforce_csrf_checks=True)
    inputs = INPUTS["fibonacci"]

    assert browser.post("/start/fibonacci/", inputs).status_code == 403
    assert browser.post("/start/fibonacci/", {**inputs, "csrfmiddlewaretoken": "x" * 64}).status_code == 403
    assert (Run.objects.count(), sent()) == (0, [])
    browser.get("/")
    token = browser.cookies["csrftoken"].value
    assert browser.post("/start/fibonacci/", {**inputs, "csrfmiddlewaretoken": token}).status_code == 302
    assert browser.post("/start/fibonacci/", inputs, headers={"X-CSRFToken": token, **HTMX}).status_code == 200
    assert (Run.objects.count(), len(sent())) == (2, 6)


@pytest.mark.parametrize("address", ["/", "/system/", "/healthz", "/samples/", "/samples/json/"])
def test_what_only_reads_takes_no_post(address: str, visitor: Callable[..., Client]) -> None:
    assert visitor("view_run", "view_entry", "add_run").post(address).status_code == 405


def test_starting_takes_no_get(visitor: Callable[..., Client]) -> None:
    assert visitor("view_run", "add_run").get("/start/fibonacci/").status_code == 405
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    "address",
    ["/runs/00000000-0000-0000-0000-000000000000/", "/runs/1/", "/entries/0/", "/entries/0/numbers/", "/none"],
)
def test_what_is_not_there_is_not_found(address: str, visitor: Callable[..., Client], sent: Sent) -> None:
    assert visitor("view_run", "view_entry").get(address).status_code == 404
    assert sent() == []


def test_an_unknown_workload_is_not_found(visitor: Callable[..., Client]) -> None:
    browser = visitor("view_run", "add_run")

    assert browser.post("/start/nonsense/").status_code == 404
    assert browser.get(f"/runs/{run_of('retired').pk}/").status_code == 404


# --- Starting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", sorted(set(WORKLOADS) - {"serial"}))
def test_a_start_creates_a_run_sends_its_tasks_and_answers_with_its_card(
    slug: str, entry: Entry, visitor: Callable[..., Client], sent: Sent
) -> None:
    answer = visitor("view_run", "add_run").post(f"/start/{slug}/", INPUTS[slug], headers=HTMX)

    run = Run.objects.get()
    assert (run.workload, run.started_by) == (slug, User.objects.get(username="someone"))
    ids = {message.id for message in sent()} | set(Launch.objects.values_list("task_id", flat=True))
    assert slug in {"jobs", "launches"} or ids <= set(run.task_ids)
    assert bool(run.task_ids) == (slug not in {"periodic", "jobs"})  # beat sends its task, and jobs are no tasks
    assert answer.status_code == 200
    assert f'id="card-{slug}"' in answer.content.decode()
    assert f"/runs/{run.pk}/" in answer.content.decode()
    assert "<html" not in answer.content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_start_of_the_serial_workload_records_operations_and_sends_plain_tasks(
    visitor: Callable[..., Client], sent: Sent
) -> None:
    answer = visitor("view_run", "add_run").post("/start/serial/", INPUTS["serial"], headers=HTMX)

    assert answer.status_code == 200
    run = Run.objects.get()
    assert len(run.task_ids) == 4
    assert set(Operation.objects.values_list("task_id", flat=True)) == set(run.task_ids[:2])
    assert set(run.task_ids[2:]) <= {message.id for message in sent()}


def test_without_javascript_a_start_leads_back_to_the_home_page(visitor: Callable[..., Client], sent: Sent) -> None:
    answer = visitor("view_run", "add_run").post("/start/fibonacci/", INPUTS["fibonacci"])

    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert len(sent()) == 3


@pytest.mark.parametrize("headers", [HTMX, {}], ids=["htmx", "plain"])
@pytest.mark.parametrize(
    ("slug", "field", "value", "sentence"),
    [
        ("fibonacci", "n", "36", "Ensure this value is less than or equal to 35."),
        ("identifiers", "chunk", "0", "Ensure this value is greater than or equal to 1."),
        ("serial", "name", "a b", "Use letters, digits, and . : _ - only."),
        ("words", "urls", "file:///etc/passwd", "file:///etc/passwd is not an http or https address."),
        ("words", "words", "1", "Enter at least one word."),
    ],
)
def test_a_start_with_errors_starts_nothing_and_says_them(
    slug: str,
    field: str,
    value: str,
    sentence: str,
    headers: dict[str, str],
    visitor: Callable[..., Client],
    sent: Sent,
) -> None:
    browser = visitor("view_run", "add_run")
    answer = browser.post(f"/start/{slug}/", {**INPUTS[slug], field: value}, headers=headers)

    assert answer.status_code == 200
    assert sentence in text(answer)
    assert (Run.objects.count(), Operation.objects.count(), sent()) == (0, 0, [])


def test_a_start_that_needs_an_entry_says_so(no_entry: None, visitor: Callable[..., Client], sent: Sent) -> None:
    answer = visitor("view_run", "add_run").post("/start/launches/", INPUTS["launches"], headers=HTMX)

    assert "There is no live entry to launch for. Add one in the admin, under Entries." in text(answer)
    assert (Run.objects.count(), sent()) == (0, [])


def test_what_was_entered_is_shown_as_text(visitor: Callable[..., Client]) -> None:
    wrong = "<script>alert(1)</script>"
    answer = visitor("view_run", "add_run").post("/start/words/", {"urls": wrong, "words": wrong}, headers=HTMX)

    assert "<script>alert" not in answer.content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; is not an http or https address." in answer.content.decode()


# --- The home page -----------------------------------------------------------------------------------------------


def test_the_home_page_shows_every_workload_queue_and_live_entry(entry: Entry, visitor: Callable[..., Client]) -> None:
    Entry.objects.create(title="Not yet", body="x", live=False)
    shown = text(visitor("view_run").get("/"))

    for workload in WORKLOADS.values():
        assert workload.title in shown
    for queue in QUEUES:
        assert queue.name in shown
    assert "The title" in shown
    assert "Not yet" not in shown


def test_who_may_only_watch_gets_no_button_to_start(visitor: Callable[..., Client], make_user: MakeUser) -> None:
    watching = visitor("view_run")
    assert 'id="start-' not in watching.get("/").content.decode()
    watching.force_login(make_user("starter", "view_run", "add_run"))
    assert watching.get("/").content.decode().count('id="start-') == len(WORKLOADS)


def queries(browser: Client, address: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert browser.get(address).status_code == 200
    return len(captured)


def test_the_home_page_asks_the_database_as_much_for_many_runs_as_for_one(visitor: Callable[..., Client]) -> None:
    browser = visitor("view_run")
    for slug in WORKLOADS:
        run_of(slug, name="x")
    one = queries(browser, "/")
    for _ in range(30):
        for slug in WORKLOADS:
            run_of(slug, name="x")
    Entry.objects.bulk_create(Entry(title="t", body="b") for _ in range(30))

    assert queries(browser, "/") == one


@pytest.mark.parametrize("status", ["FAILURE", "REVOKED"])
def test_a_run_that_failed_or_was_cancelled_is_shown_as_failed_and_breaks_no_page(
    status: str, visitor: Callable[..., Client]
) -> None:
    inputs = {
        "serial": {"name": "x", "threads": 1, "each": 1},
        "fibonacci": {"n": 1, "count": 2},
        "identifiers": {"count": 1, "chunk": 1},
        "words": {"urls": ["u"], "words": ["a"]},
        "visits": {"visits": 2, "answer_ms": 1},
        "launches": {"limit": 2},
    }
    error = json.dumps({"exc_type": "KeyError", "exc_message": ["k"], "exc_module": "builtins"})
    for slug, values in inputs.items():
        ids = [f"{slug}-{part}" for part in "ab"]
        Run.objects.create(workload=slug, inputs=values, task_ids=ids)
        for task_id in ids:
            TaskResult.objects.create(task_id=task_id, status=status, result=error)
    Operation.objects.create(
        task_id="serial-a",
        lane=0,
        key="k",
        task="t",
        arguments="[]",
        result=error,
        status=states.FAILED if status == "FAILURE" else states.CANCELLED,
        enqueued_at=timezone.now(),
    )
    TaskResult.objects.filter(task_id="serial-a").delete()
    browser = visitor("view_run")

    home = browser.get("/")
    assert home.content.decode().count('data-state="failed"') == len(inputs)
    for run in Run.objects.all():
        assert browser.get(f"/runs/{run.pk}/").status_code == 200


def test_a_run_in_progress_asks_for_itself_again_and_a_finished_one_does_not(visitor: Callable[..., Client]) -> None:
    browser, run = visitor("view_run"), run_of("fibonacci", n=1, count=2)
    TaskResult.objects.create(task_id="a", status="SUCCESS", result="0", worker="w1@here")

    going = browser.get(f"/runs/{run.pk}/")
    assert "1 of 2 finished" in text(going)
    assert f'hx-get="/runs/{run.pk}/"' in going.content.decode()
    TaskResult.objects.create(task_id="b", status="SUCCESS", result="1", worker="w1@here")
    done = browser.get(f"/runs/{run.pk}/")
    assert "2 of 2 right, by w1@" in text(done)
    assert "hx-get" not in done.content.decode()


def test_a_finished_run_is_judged_once(visitor: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Run] = []

    def judge(self: Any, run: Run) -> Verdict:
        judged.append(run)
        return Verdict(True, "all right")

    monkeypatch.setattr(type(WORKLOADS["fibonacci"]), "judge", judge)
    run = Run.objects.create(workload="fibonacci", inputs={"n": 1, "count": 1}, task_ids=["a"])
    browser = visitor("view_run")
    assert "all right" not in text(browser.get("/"))
    TaskResult.objects.create(task_id="a", status="SUCCESS", result="1", worker="w1@here")
    for _ in range(3):
        assert "all right" in text(browser.get("/"))
        assert "1 of 1 finished" in text(browser.get(f"/runs/{run.pk}/"))
    assert judged == [run]


# --- Entries -----------------------------------------------------------------------------------------------------


def test_a_visit_to_an_entry_triggers_the_work_and_does_not_wait(
    entry: Entry, visitor: Callable[..., Client], sent: Sent
) -> None:
    browser, address = visitor("view_entry"), f"/entries/{entry.pk}/"
    shown = browser.get(address)
    assert "Some words." in text(shown)
    assert "hx-get" not in shown.content.decode().partition('id="numbers"')[2].partition(">")[0]
    assert sent() == []

    answer = browser.post(address)
    (message,) = sent()
    assert (message.queue, message.task, message.args) == ("high", "tasks_app.tasks.update_metrics", [entry.pk])
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{address}?visit={message.id}")
    assert f"task={message.id}" in browser.get(answer.headers["Location"]).content.decode()
    assert sent() == []


def test_a_visit_needs_the_page_s_token(entry: Entry, visitor: Callable[..., Client], sent: Sent) -> None:
    browser = visitor("view_entry")
    browser.handler.enforce_csrf_checks = True

    assert browser.post(f"/entries/{entry.pk}/").status_code == 403
    assert sent() == []


def test_the_numbers_are_asked_for_again_until_the_visits_task_has_ended(
    entry: Entry, visitor: Callable[..., Client]
) -> None:
    browser, address = visitor("view_entry"), f"/entries/{entry.pk}/numbers/"

    assert "hx-get" not in browser.get(address).content.decode()
    for status, asks in ((None, True), ("STARTED", True), ("SUCCESS", False), ("FAILURE", False), ("REVOKED", False)):
        if status:
            TaskResult.objects.update_or_create(task_id="x", defaults={"status": status})
        assert ("hx-get" in browser.get(address, {"task": "x"}).content.decode()) is asks, status
    assert "<script" not in browser.get(address, {"task": '"><script>'}).content.decode()


# --- Public pages ------------------------------------------------------------------------------------------------


def test_the_health_check_and_the_samples_are_public(client: Client) -> None:
    assert client.get("/healthz").content == b"ok"
    assert client.post("/healthz").status_code == 405
    assert client.get("/login/").status_code == 200
    listed = client.get("/samples/").content.decode()
    for name in SAMPLES:
        assert f"/samples/{name}/" in listed


@pytest.mark.parametrize("host", ["10.1.2.3", "127.0.0.1:8123", "elsewhere.example", "[fe80::1]:80", "not a host"])
def test_the_health_check_answers_by_address_and_no_other_page_does(
    host: str, client: Client, settings: LazySettings
) -> None:
    settings.ALLOWED_HOSTS = ["example.org"]
    assert client.get("/healthz", headers={"host": host}).content == b"ok"
    for path in ("/", "/login/", "/admin/", "/samples/", "/healthz/"):
        assert client.get(path, headers={"host": host}).status_code == 400, path


@pytest.mark.parametrize(
    "name", ["os", "sys", "antigravity", "this", "tasks_app", "project", "settings", "json.tool", "__main__"]
)
def test_a_module_that_is_not_listed_is_no_sample(name: str, client: Client) -> None:
    assert client.get(f"/samples/{name}/").status_code == 404


def test_every_listed_module_is_there() -> None:
    assert [name for name in SAMPLES if find_spec(name) is None] == []
    assert len(set(SAMPLES)) == len(SAMPLES)


def test_a_sample_shows_its_module_and_nothing_of_the_project(client: Client) -> None:
    for name in ("tempfile", "platform", "locale", "socket", "logging", "secrets"):
        shown = client.get(f"/samples/{name}/").content.decode()
        assert "<strong" in shown, name
        assert len(shown) > 1000, name
        for private in (settings.SECRET_KEY, str(settings.HANDBELL_DATA_DIR), "project.settings"):
            assert private not in shown, name
