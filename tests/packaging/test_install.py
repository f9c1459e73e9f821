"""docs/install.md, followed word by word in a fresh project, on each Python and Django that Handbell is for."""

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from tests.documents import Step, steps
from tests.packaging.browser import Browser
from tests.packaging.environments import MATRIX, Entry, find_python
from tests.packaging.site import Site

STEPS = steps("docs/install.md")
PREPARE = [step for step in STEPS if step.verb != "shell" and "stopped" not in step.notes and step.notes != "for tests"]
(TRY,) = [step for step in STEPS if step.verb == "shell"]
(UP,) = [step for step in STEPS if step.notes == "until it is stopped"]
(WORKERS,) = [step for step in STEPS if step.notes.startswith("side by side")]
(TESTS,) = [step for step in STEPS if step.notes == "for tests"]
LISTS_WITH_ROWS = {
    "/admin/django_celery_results/taskresult/",
    *(f"/admin/handbell/{name}/" for name in ("job", "lane", "launch", "operation")),
}
TIDY = "from shop.tasks import delete_old_rows; print(delete_old_rows.delay().get(timeout=20))"
CHECK = (
    "from django.core.management import call_command; call_command('check', fail_level='WARNING'); "
    "call_command('makemigrations', check_changes=True, dry_run=True)"
)
#: Beside what the page schedules: something that a test need not wait for until the night.
TICKS = Step(
    "append",
    "mysite/settings.py",
    "",
    'CELERY_BEAT_SCHEDULE["often"] = {"task": "shop.tasks.square", "schedule": 1.0, "args": [1001]}',
)
WAIT_FOR_A_TICK = """
import time
from django_celery_results.models import TaskResult
deadline = time.monotonic() + 30
while not TaskResult.objects.filter(result="1002001").exists():
    assert time.monotonic() < deadline
    time.sleep(0.1)
"""
pytestmark = pytest.mark.timeout(600)
MakeSite = Callable[[Entry], Site]


@pytest.fixture(scope="session")
def make_site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeSite:
    """A project in which the page's steps have been taken, up to running it: one for each entry of the matrix."""
    made: dict[Entry, Site] = {}

    def make(entry: Entry) -> Site:
        if entry not in made:
            folder = tmp_path_factory.mktemp("install")
            site = Site(folder / "site", entry.make(folder / "environment"), wheel)
            for step in PREPARE:
                if is_for(step, entry.extras):
                    site.take(step)
            site.take(TICKS)
            site.keep_database()
            made[entry] = site
        made[entry].restore_database()
        return made[entry]

    return make


def is_for(step: Step, extras: Collection[str]) -> bool:
    return not step.notes.startswith("for ") or step.notes.removeprefix("for ") in extras


def newest() -> Entry:
    return next(entry for entry in reversed(MATRIX) if find_python(entry.python))


def test_ci_has_a_python_of_the_newer_ones() -> None:
    newer = [entry.python for entry in MATRIX[1:]]
    if not any(map(find_python, newer)):
        missing = f"Of Python {', '.join(newer)} there is none, so that Django 6 is not tested: install one of them."
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)


@pytest.mark.parametrize("entry", MATRIX, ids=str)
def test_every_kind_of_work_and_every_page_works(entry: Entry, make_site: MakeSite) -> None:
    site = make_site(entry)
    with site.running([f"{UP.text.strip()} --port=0 --flower-port=0"]) as (up,):
        up.wait_until_it_says("ready:")
        assert re.search(r"embedded Valkey in \S+, because CELERY_BROKER_URL is not set", up.output())
        site.take(TRY)
        assert "'jobs': 0" in site.run_in_shell(f"{TIDY}; {CHECK}")
        site.run_in_shell(WAIT_FOR_A_TICK)
        _look_at_the_admin(up.output(), entry.extras)
    assert site.warnings() == []


def _look_at_the_admin(said: str, extras: Collection[str]) -> None:
    browser = Browser(re.findall(r"http://[\d.:]+", said)[0])
    browser.sign_in("admin", *re.findall(r"as admin with password (\S+)", said))
    pages = browser.open_admin()
    for path in LISTS_WITH_ROWS:
        assert any(page.startswith(path) and page.endswith("/change/") for page in pages), f"{path} has no row"
        assert ("unfold" in pages[path]) == ("unfold" in extras), path
    assert ("/admin/django_celery_beat/periodictask/" in pages) == ("beat" in extras)
    assert "{" in browser.get("/static/handbell/admin.css")


def test_workers_of_ones_own_work(make_site: MakeSite) -> None:
    """The same with Celery's own command line, without `handbell up`."""
    site = make_site(newest())
    with site.running(WORKERS.text.splitlines()) as programs:
        for program in programs:
            program.wait_until_it_says("is starting." if program.command.endswith("beat") else "[queues]")
        site.take(TRY)
    assert site.warnings() == []


def test_djangos_own_tasks_run(make_site: MakeSite) -> None:
    """docs/django-tasks.md, where Django has them."""
    site = make_site(newest())
    *write, try_it = steps("docs/django-tasks.md")
    for step in write:
        site.take(step)
    with site.running([f"{UP.text.strip()} --port=0 --flower-port=0"]) as (up,):
        up.wait_until_it_says("ready:")
        site.take(try_it)
    assert site.warnings() == []


def test_tests_of_ones_own_pass_with_either_runner(make_site: MakeSite) -> None:
    site = make_site(newest())
    site.environment.install("pytest", "pytest-django")
    site.take(TESTS)
    by_django, by_pytest = site.said[-2:]
    assert "Ran 1 test" in by_django
    assert "1 passed" in by_pytest
    assert site.warnings() == []


def test_without_extras_a_broker_of_ones_own_is_needed(wheel: Path, tmp_path: Path) -> None:
    environment = MATRIX[0].make(tmp_path / "environment")
    environment.install(f"django-handbell @ {wheel.as_uri()}")
    site = Site(tmp_path / "site", environment, wheel)
    for step in PREPARE:
        if step.file.startswith("mysite/") and is_for(step, ()) and "shop" not in step.text:
            site.take(step)

    assert "pip install 'django-handbell[embedded]'" in site.run("python manage.py check", fails=True)

    settings = site.folder / "mysite" / "settings.py"
    settings.write_text(settings.read_text() + '\nCELERY_BROKER_URL = "amqp://guest@localhost"\n')
    site.run("python manage.py check --fail-level WARNING")
