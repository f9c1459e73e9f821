"""The admin: every page opens, nobody does more than they may, lists stay quick, and what is shown is what is there."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from django_celery_results.models import GroupResult, TaskResult

from handbell import Job, Lane, Launch, Operation, outside_lanes, states
from handbell.admin import base
from tasks_app.models import Counter, Entry, Run, Score

pytestmark = pytest.mark.django_db

CELERY_STATES = [*(state for of in states.CELERY_STATES.values() for state in of), "ITS OWN"]
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
ERROR = {"exc_type": "ValueError", "exc_message": ["no such page"], "exc_module": "builtins"}
HTML = "<script>alert('&')</script>"
ESCAPED = "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;"


def task_result(nth: int, **values: Any) -> TaskResult:
    state = CELERY_STATES[nth % len(CELERY_STATES)]
    defaults = {
        "task_id": f"{nth:08d}-0000-4000-8000-000000000000",
        "task_name": "tasks_app.tasks.score",
        "task_args": json.dumps(f"({nth},)"),
        "task_kwargs": json.dumps("{}"),
        "status": state,
        "worker": f"cpu@host{nth}",
        "meta": json.dumps({"children": [], "queue": "cpu"}),
        "result": json.dumps(ERROR if state in {"FAILURE", "RETRY"} else nth),
        "traceback": "Traceback (most recent call last):\n …" if state in {"FAILURE", "RETRY"} else None,
        "date_started": None if state in {"PENDING", "RECEIVED"} else NOW,
    }
    return TaskResult(**{**defaults, **values})


def periodic_task(nth: int, **values: Any) -> PeriodicTask:
    every_hour, _ = IntervalSchedule.objects.get_or_create(every=1, period="hours")
    return PeriodicTask(
        **{"name": f"task {nth}", "task": "tasks_app.tasks.delete_old_results", "interval": every_hour, **values}
    )


def group_result(nth: int) -> GroupResult:
    members = [[[f"{task}", None], None] for task in range(60)]
    return GroupResult(group_id=f"group-{nth}", result=json.dumps([[f"group-{nth}", None], members]))


def run(nth: int) -> Run:
    owner, _ = User.objects.get_or_create(username=f"owner {nth % 7}")
    return Run(workload="fibonacci", inputs={"n": nth}, task_ids=[f"{task}" for task in range(nth)], started_by=owner)


def operation(nth: int, **values: Any) -> Operation:
    status = Operation.STATUSES[nth % len(Operation.STATUSES)]
    defaults = {
        "task_id": f"{nth:08d}-0000-4000-8000-000000000000",
        "lane": 0,
        "key": f"tasks_app.counter:{nth}",
        "task": "tasks_app.tasks.increment_value",
        "arguments": json.dumps([[str(nth)], {}]),
        "status": status,
        "result": json.dumps(ERROR if status in {states.FAILED, states.LOST} else nth),
        "not_before": NOW if nth % 5 == 0 else None,
        "enqueued_at": NOW,
        "started_at": None if status == states.QUEUED else NOW,
        "finished_at": NOW if status in states.FINISHED else None,
    }
    return Operation(**{**defaults, **values})


def job(nth: int, **values: Any) -> Job:
    status = Job.STATUSES[nth % len(Job.STATUSES)]
    defaults = {
        "name": f"job {nth}",
        "queue": "cpu",
        "status": status,
        "paused": nth % 3 == 0,
        "stages": [["tasks_app.tasks.score", [nth], {"deep": True}]],
        "reducer": "tasks_app.tasks.aggregate_results",
        "total": 100,
        "succeeded": nth,
        "failed": 1 if status == states.FAILED else 0,
        "chunk_seconds": 0.5,
        "enqueued_at": NOW,
        "started_at": None if status == states.QUEUED else NOW,
        "finished_at": NOW + timedelta(seconds=9) if status in states.FINISHED else None,
    }
    return Job(**{**defaults, **values})


def launch(nth: int, **values: Any) -> Launch:
    status = Launch.STATUSES[nth % len(Launch.STATUSES)]
    defaults = {
        "task_id": f"{nth:08d}-0000-4000-8000-000000000000",
        "task": "tasks_app.tasks.call_stuck_partner",
        "arguments": json.dumps([[nth], {}]),
        "status": status,
        "timeout": 2,
        "grace": 0.1,
        "memory_mb": 512,
        "host": "" if status == states.QUEUED else "host",
        "pid": None if status == states.QUEUED else nth,
        "result": json.dumps(ERROR if status in states.WENT_WRONG else nth),
        "stdout": HTML,
        "reason": "killed by signal 11, SIGSEGV, after 3.2 s" if status == states.FAILED else "",
        "exit_code": -11 if status == states.FAILED else None,
        "enqueued_at": NOW,
        "started_at": None if status == states.QUEUED else NOW,
        "finished_at": NOW if status in states.FINISHED else None,
    }
    return Launch(**{**defaults, **values})


#: Makes the nth row of each model, not saved yet.
ROWS: dict[type[Model], Callable[[int], Model]] = {
    TaskResult: task_result,
    GroupResult: group_result,
    Run: run,
    Operation: operation,
    Job: job,
    Launch: launch,
    Lane: lambda nth: Lane(pk=10_000 + nth, paused=nth == 1, blocked_by=nth if nth == 2 else None, drained_at=NOW),
    PeriodicTask: periodic_task,
    IntervalSchedule: lambda nth: IntervalSchedule(every=nth + 2, period="minutes"),
    CrontabSchedule: lambda nth: CrontabSchedule(minute=str(nth), timezone="UTC"),
    ClockedSchedule: lambda nth: ClockedSchedule(clocked_time=NOW + timedelta(hours=nth)),
    SolarSchedule: lambda nth: SolarSchedule(event="sunrise", latitude=nth, longitude=0),
    Entry: lambda nth: Entry(title=f"Entry {nth}", body="words", words=1, reading_seconds=2000, measured_at=NOW),
    Counter: lambda nth: Counter(name=f"counter {nth}", value=nth),
    Score: lambda nth: Score(item=nth, value=nth),
    User: lambda nth: User(username=f"user {nth}", is_staff=True),
    Group: lambda nth: Group(name=f"group {nth}"),
}
every_model = pytest.mark.parametrize("model", ROWS, ids=lambda model: model.__name__)


def make(model: type[Model], numbers: range) -> None:
    with outside_lanes():
        model._default_manager.bulk_create([ROWS[model](nth) for nth in numbers])


def page(model: type[Model], name: str = "changelist", *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=args)


def contents(model: type[Model]) -> list[dict[str, Any]]:
    return list(model._default_manager.order_by("pk").values())


def sign_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def superuser() -> Client:
    return sign_in(User.objects.create_superuser("root"))


@pytest.fixture
def onlooker() -> Client:
    """Someone who may see everything in the admin, and do nothing."""
    user = User.objects.create_user("onlooker", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return sign_in(user)


def shown(client: Client, **query: str) -> set[str]:
    """The first eight characters of the ids of the task results that this query leads to."""
    response = client.get(page(TaskResult), query)
    assert response.status_code == 200
    return {row.task_id[:8] for row in response.context["cl"].result_list}


# --- Pages ----------------------------------------------------------------------------------------------------------


def test_every_model_of_the_admin_is_tested_here() -> None:
    assert set(ROWS) == set(admin.site._registry)


@every_model
def test_every_list_and_every_row_opens(model: type[Model], superuser: Client) -> None:
    assert superuser.get(page(model)).status_code == 200
    make(model, range(len(CELERY_STATES)))
    assert superuser.get(page(model)).status_code == 200
    for row in model._default_manager.all():
        response = superuser.get(page(model, "change", row.pk))
        assert response.status_code == 200
        assert superuser.get(page(model, "history", row.pk)).status_code == 200


def test_the_look_is_unfolds_where_it_is_installed(superuser: Client) -> None:
    assert ("unfold" in superuser.get(page(TaskResult)).text) == apps.is_installed("unfold")


def test_a_task_result_without_anything_optional_opens(superuser: Client) -> None:
    nothing = dict.fromkeys(("task_name", "task_args", "task_kwargs", "worker", "meta", "result", "traceback"))
    row = task_result(0, **nothing)
    row.save()
    assert superuser.get(page(TaskResult)).status_code == 200
    assert superuser.get(page(TaskResult, "change", row.pk)).status_code == 200


def test_a_periodic_task_opens_whatever_its_schedule(superuser: Client) -> None:
    clocked = ClockedSchedule.objects.create(clocked_time=NOW)
    solar = SolarSchedule.objects.create(event="sunrise", latitude=1, longitude=1)
    crontab = CrontabSchedule.objects.create(minute="7", timezone="Europe/Berlin")
    for nth, schedule in enumerate(({"clocked": clocked, "one_off": True}, {"solar": solar}, {"crontab": crontab})):
        row = periodic_task(nth, interval=None, **schedule)
        row.save()
        assert superuser.get(page(PeriodicTask, "change", row.pk)).status_code == 200
    assert superuser.get(page(PeriodicTask)).status_code == 200


def test_the_overview_shows_what_one_may_see() -> None:
    user = User.objects.create_user("some", is_staff=True)
    assert "Your account may not see anything here." in sign_in(user).get(reverse("admin:index")).text
    user.user_permissions.set(Permission.objects.filter(codename="view_taskresult"))
    text = sign_in(user).get(reverse("admin:index")).text
    assert page(TaskResult) in text
    assert page(PeriodicTask) not in text


def test_whoever_is_not_staff_is_asked_to_sign_in() -> None:
    response = sign_in(User.objects.create_user("visitor")).get(page(TaskResult))
    assert response.status_code == 302


# --- Permissions ----------------------------------------------------------------------------------------------------


@every_model
def test_an_onlooker_sees_rows_and_changes_none(model: type[Model], onlooker: Client) -> None:
    make(model, range(2))
    before = contents(model)
    row = before[-1]
    identity = row[model._meta.pk.name]

    assert onlooker.get(page(model)).status_code == 200
    assert onlooker.get(page(model, "change", identity)).status_code == 200
    changed = {key: str(value) for key, value in row.items()} | {"name": "changed", "title": "changed", "value": "99"}
    assert onlooker.post(page(model, "change", identity), changed).status_code == 403
    assert onlooker.post(page(model, "add"), changed).status_code == 403
    assert onlooker.post(page(model, "delete", identity), {"post": "yes"}).status_code == 403
    act(onlooker, model, "delete_selected", identity)
    assert contents(model) == before


def act(client: Client, model: type[Model], action: str, *identities: Any) -> Any:
    """What the list's menu of actions sends, confirmed."""
    return client.post(page(model), {"action": action, "_selected_action": identities, "post": "yes"}, follow=True)


@pytest.mark.parametrize("action", ["enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks"])
def test_only_who_may_change_periodic_tasks_enables_disables_and_runs_them(
    action: str, onlooker: Client, superuser: Client, sent: Callable[[], list[Any]]
) -> None:
    on, off = periodic_task(1), periodic_task(2, enabled=False)
    on.save()
    off.save()
    before = contents(PeriodicTask)

    act(onlooker, PeriodicTask, action, on.pk, off.pk)
    assert contents(PeriodicTask) == before
    assert sent() == []

    response = act(superuser, PeriodicTask, action, on.pk, off.pk)
    assert response.status_code == 200
    assert (contents(PeriodicTask) != before) is (action != "run_tasks")
    assert [message.task for message in sent()] == [on.task, off.task] * (action == "run_tasks")


@pytest.mark.parametrize(
    ("model", "action"),
    [(Lane, "pause"), (Lane, "resume"), (Lane, "skip"), (Lane, "retry"), (Operation, "retry"), (Operation, "cancel")],
)
def test_only_who_may_change_lanes_and_operations_steers_them(
    model: type[Model], action: str, onlooker: Client, superuser: Client
) -> None:
    waits, failed = operation(0, status=states.QUEUED), operation(1, status=states.FAILED)
    waits.save()
    failed.save()
    Lane.objects.filter(pk=0).update(blocked_by=failed.pk)
    Lane.objects.filter(pk=1).update(paused=True)
    rows = {Lane: (0, 1), Operation: (waits.pk, failed.pk)}[model]
    before = contents(model)

    act(onlooker, model, action, *rows)
    assert contents(model) == before
    act(superuser, model, action, *rows)
    assert contents(model) != before


def test_only_who_may_change_launches_cancels_them(onlooker: Client, superuser: Client) -> None:
    waits, runs, over = (launch(nth, status=status) for nth, status in enumerate(("queued", "running", "failed")))
    for row in (waits, runs, over):
        row.save()
    before = contents(Launch)

    act(onlooker, Launch, "cancel", waits.pk, runs.pk, over.pk)
    assert contents(Launch) == before

    text = act(superuser, Launch, "cancel", waits.pk, runs.pk, over.pk).text
    assert "2 cancelled; what runs is ended within a moment." in text
    assert f"Launch {over.pk} is not cancelled: it is over (failed)." in text
    assert [(row["status"], row["cancel_requested"]) for row in contents(Launch)] == [
        ("cancelled", False),
        ("running", True),
        ("failed", False),
    ]


def test_a_launch_shows_how_it_ended_and_what_it_printed(superuser: Client) -> None:
    row = launch(3, stderr="Fatal Python error")
    row.save()

    text = superuser.get(page(Launch, "change", row.pk)).text

    assert "killed by signal 11, SIGSEGV, after 3.2 s (exit code -11)" in text
    assert "Fatal Python error" in text
    assert ESCAPED in text
    assert HTML not in text
    assert "2 s, then 0.1 s of grace; 512 MiB" in text
    assert "process 3 on host" in text


@pytest.mark.parametrize("word", Launch.STATUSES)
def test_launches_are_filtered_by_state_and_found_by_id(word: str, superuser: Client) -> None:
    make(Launch, range(2 * len(Launch.STATUSES)))
    left = superuser.get(page(Launch), {"state": word}).context["cl"].result_list
    assert [row.status for row in left] == [word] * 2
    found = superuser.get(page(Launch), {"q": left[0].task_id[:8]}).context["cl"].result_list
    assert list(found) == [left[0]]
    one = superuser.get(page(Launch), {"task": "tasks_app.tasks.call_stuck_partner", "state": word})
    assert len(one.context["cl"].result_list) == 2


@pytest.mark.parametrize(
    "model", [TaskResult, GroupResult, Run, Operation, Launch, Lane, Counter, Score], ids=lambda model: model.__name__
)
def test_what_the_system_writes_is_neither_added_nor_changed_by_hand(model: type[Model], superuser: Client) -> None:
    make(model, range(1))
    before = contents(model)
    identity = before[0][model._meta.pk.name]
    assert superuser.get(page(model, "add")).status_code == 403
    assert superuser.post(page(model, "add"), {"name": "x", "item": "7", "value": "7"}).status_code == 403
    assert superuser.post(page(model, "change", identity), {"status": "SUCCESS", "value": "7"}).status_code == 403
    assert contents(model) == before


@every_model
def test_rows_are_deleted_or_the_page_says_that_they_may_not_be(model: type[Model], superuser: Client) -> None:
    make(model, range(3))
    if model is Job:
        Job.objects.update(status="succeeded")  # any other is refused
    first, second, *_ = [row[model._meta.pk.name] for row in contents(model) if row.get("username") != "root"]
    single = superuser.post(page(model, "delete", first), {"post": "yes"})
    several = act(superuser, model, "delete_selected", second)
    assert several.status_code == 200
    left = model._default_manager.filter(pk__in=[first, second]).count()
    assert (single.status_code, left) == ((403, 2) if model in {Counter, Lane, Launch, Operation} else (302, 0))


# --- Lists that stay quick --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [model for model in ROWS if model is not Lane],  # each lane is looked at; how many there are is a setting
    ids=lambda model: model.__name__,
)
def test_a_longer_list_takes_as_many_queries(model: type[Model], superuser: Client) -> None:
    superuser.get(page(model))
    make(model, range(5))
    few = queries(superuser, page(model))
    make(model, range(5, 50))
    assert len(superuser.get(page(model)).context["cl"].result_list) >= 50
    assert queries(superuser, page(model)) == few
    assert few < 12


def queries(client: Client, address: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(address).status_code == 200
    return len(captured)


@pytest.mark.parametrize(("number", "said"), [(3, "3 task results"), (4, "3+ task results")])
def test_very_many_rows_are_not_counted_to_their_end(
    number: int, said: str, superuser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_COUNTED_ROWS", 3)
    make(TaskResult, range(number))
    response = superuser.get(page(TaskResult))
    assert said in " ".join(response.text.split())
    assert response.context["cl"].result_count == 3


def test_a_list_does_not_read_the_large_columns(superuser: Client) -> None:
    make(TaskResult, range(3))
    with CaptureQueriesContext(connection) as captured:
        superuser.get(page(TaskResult))
    assert not [query["sql"] for query in captured if "traceback" in query["sql"]]


# --- Filters and search -----------------------------------------------------------------------------------------------


@pytest.fixture
def mixed() -> None:
    """Results that differ in one thing each, called by it in their ids."""
    elsewhere = json.dumps({"children": ["serial"], "queue": "io"})
    rows = [
        task_result(nth, task_id=f"state-{nth:02d}-{state}", worker="cpu@one")
        for nth, state in enumerate(CELERY_STATES)
    ]
    rows += [
        task_result(0, task_id="serial-1", meta=json.dumps({"queue": "serial"}), worker="serial@one"),
        task_result(0, task_id="fetched-", task_name="tasks_app.tasks.scrape_url", worker="io@one", meta=elsewhere),
        task_result(0, task_id="long-ago", worker=None),
    ]
    TaskResult.objects.bulk_create(rows)
    TaskResult.objects.filter(task_id="long-ago").update(date_created=NOW - timedelta(days=400))


@pytest.mark.parametrize("word", states.CELERY_STATES)
def test_the_state_filter_leaves_rows_in_that_state(word: str, mixed: None, superuser: Client) -> None:
    response = superuser.get(page(TaskResult), {"state": word})
    left = {row.status for row in response.context["cl"].result_list}
    assert left == {state for state in CELERY_STATES if states.word(state) == word}


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({"queue": "serial"}, {"serial-1"}),
        ({"task": "tasks_app.tasks.scrape_url"}, {"fetched-"}),
        ({"worker": "io@one"}, {"fetched-"}),
        ({"worker": "io@one", "queue": "serial"}, set()),
        ({"worker": "nobody@nowhere"}, set()),
        ({"q": "scrape"}, {"fetched-"}),
        ({"q": "serial-"}, {"serial-1"}),
        ({"q": " long-ago "}, {"long-ago"}),
        ({"q": "erial-1"}, set()),
        ({"q": "serial_"}, set()),
        ({"q": "%"}, set()),
    ],
)
def test_filters_and_search_leave_the_right_rows(
    query: dict[str, str], left: set[str], mixed: None, superuser: Client
) -> None:
    assert shown(superuser, **query) == left


def test_the_age_filter_leaves_recent_rows(mixed: None, superuser: Client) -> None:
    recent = shown(superuser, within="1")
    assert "serial-1" in recent
    assert shown(superuser) - recent == {"long-ago"}


def test_every_worker_that_has_results_is_offered(mixed: None, superuser: Client) -> None:
    text = superuser.get(page(TaskResult)).text
    for worker in ("cpu@one", "serial@one", "io@one"):
        assert f"worker={worker.replace('@', '%40')}" in text


def test_an_id_of_the_callers_own_is_found_as_it_is_written(superuser: Client) -> None:
    task_result(0, task_id="Report-2026-03").save()
    assert shown(superuser, q="Report-2026") == {"Report-2"}
    assert shown(superuser, q="REPORT-2026") == set()


def test_an_id_in_capitals_is_found(superuser: Client) -> None:
    row = task_result(0, task_id="abcdef01-0000-4000-8000-000000000000")
    row.save()
    assert shown(superuser, q="ABCDEF01") == {"abcdef01"}


@pytest.mark.parametrize("query", [{"state": "?"}, {"q": "\0"}, {"within": "x"}, {"p": "99"}, {"o": "9.9"}])
def test_a_query_that_makes_no_sense_is_not_an_error(query: dict[str, str], mixed: None, superuser: Client) -> None:
    assert superuser.get(page(TaskResult), query, follow=True).status_code == 200


@pytest.mark.parametrize("word", Operation.STATUSES)
def test_operations_are_filtered_by_state_and_found_by_id_or_key(word: str, superuser: Client) -> None:
    make(Operation, range(2 * len(Operation.STATUSES)))
    left = superuser.get(page(Operation), {"state": word}).context["cl"].result_list
    assert [row.status for row in left] == [word, word]
    for text in (left[0].task_id[:8], left[0].key):
        assert list(superuser.get(page(Operation), {"q": text}).context["cl"].result_list) == [left[0]]


# --- What is shown ----------------------------------------------------------------------------------------------------


def test_html_in_what_tasks_return_raise_and_take_is_shown_as_text(superuser: Client) -> None:
    values = {"task_name": HTML, "task_args": HTML, "task_kwargs": HTML, "worker": HTML, "traceback": HTML}
    returned = task_result(0, task_id=f"1{HTML}", status="SUCCESS", result=json.dumps([HTML]), **values)
    raised = task_result(0, task_id=f"2{HTML}", status="FAILURE", result=json.dumps({**ERROR, "exc_message": HTML}))
    for row in (returned, raised):
        row.save()
        text = superuser.get(page(TaskResult, "change", row.pk)).text
        assert "<script>alert" not in text
        assert ESCAPED in text
    text = superuser.get(page(TaskResult)).text
    assert "<script>alert" not in text
    assert ESCAPED in text


def test_html_in_inputs_names_and_ids_is_shown_as_text(superuser: Client) -> None:
    with outside_lanes():
        rows: list[Model] = [
            Run.objects.create(workload=HTML, inputs={"name": HTML}, task_ids=[HTML]),
            GroupResult.objects.create(group_id=HTML, result=json.dumps([[HTML, None], [[[HTML, None], None]]])),
            Entry.objects.create(title=HTML, body=HTML),
            Counter.objects.create(name=HTML),
        ]
    error = json.dumps({**ERROR, "exc_message": [HTML]})
    unsaved = (
        periodic_task(0, name=HTML, task=HTML, description=HTML),
        operation(0, task=HTML, key=HTML, arguments=json.dumps([[HTML], {}]), status=states.SUCCEEDED),
        operation(1, task=HTML, key=HTML, status=states.FAILED, result=error, traceback=HTML),
    )
    for row in unsaved:
        row.save()
    for row in (*rows, *unsaved):
        for address in (page(type(row)), page(type(row), "change", row.pk)):
            text = superuser.get(address).text
            assert "<script>alert" not in text
            assert ESCAPED in text.replace("&#39;", "&#x27;")


def test_a_very_long_result_is_cut_and_says_so(superuser: Client) -> None:
    row = task_result(0, status="SUCCESS", result=json.dumps("x" * 25_000))
    row.save()
    text = superuser.get(page(TaskResult, "change", row.pk)).text
    assert "… and 5,000 characters more" in text
    assert "x" * 20_001 not in text


def test_a_failed_task_shows_its_error_and_traceback(superuser: Client) -> None:
    row = task_result(0, status="FAILURE", result=json.dumps(ERROR), traceback="Traceback: line 7")
    row.save()
    text = superuser.get(page(TaskResult, "change", row.pk)).text
    assert "ValueError: no such page" in text
    assert "Traceback: line 7" in text


def test_a_run_of_many_tasks_links_the_first_fifty(superuser: Client) -> None:
    row = Run.objects.create(workload="fibonacci", task_ids=[f"id-{nth}" for nth in range(1200)])
    text = superuser.get(page(Run, "change", row.pk)).text
    assert "1,200" in text
    assert "?q=id-49" in text
    assert "?q=id-50" not in text
    assert "… and 1,150 more" in text
