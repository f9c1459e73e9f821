"""The project's settings: what is wrong with them is said in a sentence before anything starts."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.conf import settings as configured
from django.test import Client

from handbell.conf import declared_settings
from project.environment import Problem
from tests.system import MANAGE, ROOT

Load = Callable[..., dict[str, Any]]
LONG_KEY = "only-for-tests." * 5
NAMES = {variable.name for variable in configured.ENV.variables} | {setting.name for setting in declared_settings()}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Runs project/settings.py with these variables and no others of the project's; what it defines."""

    def run(**environment: str) -> dict[str, Any]:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in {"HANDBELL_DATA_DIR": str(tmp_path / "var"), **environment}.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(ROOT / "project" / "settings.py"))

    return run


def problems(loaded: dict[str, Any]) -> list[Problem]:
    found: list[Problem] = loaded["ENV"].problems
    return found


def clean_environment(folder: Path, **environment: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    return {**inherited, "HANDBELL_DATA_DIR": str(folder), **environment}


# --- Said before anything starts ---------------------------------------------------------------------------------

Checks = dict[str, "subprocess.CompletedProcess[str]"]
WRONG = {
    "a database": {"DATABASE_URL": "mysql://user:hush@db/name", "SECRET_KEY": LONG_KEY},
    "a broker": {"CELERY_BROKER_URL": "kafka://user:hush@mq", "SECRET_KEY": LONG_KEY},
    "a result backend": {"CELERY_RESULT_BACKEND": "redis://user:hush@127.0.0.1:port/1"},
    "another result backend": {"CELERY_RESULT_BACKEND": "rabbit://user:hush@127.0.0.1"},
    "no key": {"DATABASE_URL": "postgres://user:hush@127.0.0.1:1/name"},
    "a level": {"LOG_LEVEL": "LOUD"},
    "a number": {"FETCH_TIMEOUT": "0"},
    "a setting of Handbell": {"HANDBELL_CONCURRENCY": "cpu=0"},
    "a folder": {"HANDBELL_DATA_DIR": __file__},
}
DEPLOYED = {
    "DATABASE_URL": "postgres://user:hush@127.0.0.1:1/name",
    "SECRET_KEY": LONG_KEY,
    "HTTPS": "yes",
    "ALLOWED_HOSTS": "example.org",
}


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Checks:
    """What `manage.py check` says of each wrong environment, and of one that is right for a deployment."""
    deploy = ("--deploy", "--fail-level=WARNING")
    commands = {why: ((), wrong) for why, wrong in WRONG.items()} | {"nothing": (deploy, DEPLOYED)}
    running = {
        why: subprocess.Popen(
            [*MANAGE, "check", *options],
            env=clean_environment(tmp_path_factory.mktemp("check"), **environment),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for why, (options, environment) in commands.items()
    }
    found = {}
    for why, process in running.items():
        output, errors = process.communicate(timeout=60)
        found[why] = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    return found


@pytest.mark.parametrize(
    ("why", "sentence", "fix"),
    [
        (
            "a database",
            "DATABASE_URL is not the address of a PostgreSQL or SQLite database.",
            "Set it to postgres://user:password@host:5432/name",
        ),
        (
            "a broker",
            "CELERY_BROKER_URL is not the address of a broker.",
            "Set it to amqp://user:password@host:5672/vhost",
        ),
        (
            "a result backend",
            "CELERY_RESULT_BACKEND is not a result backend that Celery can load.",
            "Set it to redis://host:6379/1 or cache+memcached://host:11211/, or unset it to use the database.",
        ),
        ("another result backend", "CELERY_RESULT_BACKEND is not a result backend", "unset it to use the database."),
        ("no key", "SECRET_KEY is not set", "Set it to at least 50 random characters"),
        ("a level", "LOG_LEVEL is 'LOUD'.", "Set it to DEBUG, INFO, WARNING or ERROR."),
        ("a number", "FETCH_TIMEOUT is 0.", "Set it to a whole number from 1 to 600."),
        (
            "a setting of Handbell",
            "HANDBELL_CONCURRENCY is 'cpu=0', which is not a list of name=number, each from 1 to 1000.",
            "Set it to a list of name=number, each from 1 to 1000.",
        ),
        (
            "a folder",
            f"HANDBELL_DATA_DIR is {__file__}, which cannot be written to (File exists).",
            "Set it to a folder you may write to.",
        ),
    ],
)
def test_check_names_the_variable_and_the_fix_and_exits_with_1(
    why: str, sentence: str, fix: str, checks: Checks
) -> None:
    done = checks[why]

    assert done.returncode == 1
    assert sentence in done.stderr
    assert fix in done.stderr
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stdout + done.stderr


def test_a_deployment_passes_djangos_own_check(checks: Checks) -> None:
    assert checks["nothing"].returncode == 0, checks["nothing"].stderr
    assert "no issues" in checks["nothing"].stdout


def folders_that_cannot_be_used(tmp_path: Path) -> dict[str, Path]:
    file, closed = tmp_path / "file", tmp_path / "closed"
    file.write_text("in the way")
    closed.mkdir(mode=0o500)
    found = {"a file": file, "below a file": file / "var", "a name that is too long": tmp_path / ("x" * 300)}
    if sys.platform == "linux":
        found |= {"no folder of ours": Path("/proc"), "cannot be made": Path("/proc/var")}
    if os.getuid() != 0:
        found |= {"not writable": closed, "not creatable": closed / "var"}
    return found


def test_a_var_dir_that_cannot_be_written_to_is_refused_in_a_sentence(load: Load, tmp_path: Path) -> None:
    for why, folder in folders_that_cannot_be_used(tmp_path).items():
        (problem,) = problems(load(HANDBELL_DATA_DIR=str(folder)))

        assert problem.name == "HANDBELL_DATA_DIR", why
        assert f"HANDBELL_DATA_DIR is {folder}, which cannot be written to" in problem.sentence, why
        assert problem.fix == "Set it to a folder you may write to."


def test_every_problem_is_said_at_once(load: Load) -> None:
    found = problems(load(DEBUG="perhaps", FETCH_TIMEOUT="x", LOG_LEVEL="x", ALLOWED_HOSTS=",", HTTPS="perhaps"))

    assert {problem.name for problem in found} == {"DEBUG", "FETCH_TIMEOUT", "LOG_LEVEL", "ALLOWED_HOSTS", "HTTPS"}


def test_the_defaults_have_no_problem(load: Load) -> None:
    assert problems(load()) == []


# --- Addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("mysql://u:p@h/name", "postgis://u:p@h/name", "nonsense", "http://example.org/", "://", "postgres:"),
        *("postgres://u:p@h:port/name", "postgres://u:p@h:99999/name", "postgres://u:p@h", "postgres://u:p@h/"),
        *("sqlite://", "sqlite://:memory:", "sqlite:///:memory:"),
    ],
)
def test_what_is_no_address_of_a_database_is_refused(load: Load, url: str) -> None:
    assert [problem.name for problem in problems(load(DATABASE_URL=url, SECRET_KEY=LONG_KEY))] == ["DATABASE_URL"]


@pytest.mark.parametrize(
    ("url", "part", "value"),
    [
        ("postgres://u:p%40ss@h:5433/name", "PASSWORD", "p@ss"),
        ("postgresql://u@h/name", "NAME", "name"),
        ("postgres://?service=mine", "NAME", ""),
        ("sqlite:////tmp/some.sqlite3", "NAME", "/tmp/some.sqlite3"),
    ],
)
def test_the_address_of_a_database_is_taken(load: Load, url: str, part: str, value: object) -> None:
    loaded = load(DATABASE_URL=url, SECRET_KEY=LONG_KEY)

    assert problems(loaded) == []
    assert loaded["DATABASES"]["default"][part] == value


def test_options_in_the_address_of_a_database_are_taken(load: Load) -> None:
    loaded = load(DATABASE_URL="postgres://h/name?connect_timeout=9&sslmode=require", SECRET_KEY=LONG_KEY)

    options = loaded["DATABASES"]["default"]["OPTIONS"]
    assert (options["connect_timeout"], options["sslmode"]) == (9, "require")


@pytest.mark.parametrize("name", ["var", "with space", "per%41cent", "hash#mark", "question?mark", "semi;colon"])
def test_the_default_database_is_in_var_dir_whatever_its_name(load: Load, tmp_path: Path, name: str) -> None:
    loaded = load(HANDBELL_DATA_DIR=str(tmp_path / name))

    assert loaded["DATABASES"]["default"]["NAME"] == str(tmp_path / name / "db.sqlite3")
    assert "CELERY_BROKER_URL" not in loaded
    assert problems(loaded) == []


def test_the_address_of_a_broker_is_handed_on(load: Load) -> None:
    assert (
        load(CELERY_BROKER_URL="amqp://u:p@h:5672/v", SECRET_KEY=LONG_KEY)["CELERY_BROKER_URL"] == "amqp://u:p@h:5672/v"
    )


def test_variables_of_handbell_become_its_settings(load: Load) -> None:
    loaded = load(HANDBELL_LEASE_SECONDS="30", HANDBELL_SERIAL_LANES=" ")

    assert loaded["HANDBELL_LEASE_SECONDS"] == "30"
    assert "HANDBELL_SERIAL_LANES" not in loaded
    assert loaded["HANDBELL_QUEUES"] == "tasks_app.queues.QUEUES"


def test_a_sentence_never_repeats_a_password(load: Load) -> None:
    (problem,) = problems(load(SECRET_KEY=LONG_KEY, DATABASE_URL="mysql://user:hush@h/x"))

    assert "hush" not in str(problem)


# --- Security ----------------------------------------------------------------------------------------------------


def test_https_marks_the_cookies_and_redirects(load: Load) -> None:
    plain, secure = load(), load(HTTPS="yes", ALLOWED_HOSTS="example.org,*")

    assert (plain["SESSION_COOKIE_SECURE"], plain["CSRF_COOKIE_SECURE"]) == (False, False)
    assert "SECURE_SSL_REDIRECT" not in plain
    assert (secure["SESSION_COOKIE_SECURE"], secure["CSRF_COOKIE_SECURE"]) == (True, True)
    assert secure["SECURE_SSL_REDIRECT"] is True
    assert secure["CSRF_TRUSTED_ORIGINS"] == ["https://example.org"]


def test_https_leaves_what_is_asked_for_from_behind_the_proxy_alone(load: Load, settings: LazySettings) -> None:
    secure = load(HTTPS="yes")
    for name in ("SECURE_SSL_REDIRECT", "SECURE_REDIRECT_EXEMPT"):
        setattr(settings, name, secure[name])
    client = Client()

    assert client.get("/healthz").status_code == 200
    assert client.get("/samples/json/").status_code == 200
    for path in ("/", "/login/", "/admin/"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (301, f"https://testserver{path}")


@pytest.mark.parametrize("environment", [{"DATABASE_URL": "postgres://u:p@h/x"}, {"CELERY_BROKER_URL": "amqp://h//"}])
def test_no_key_is_generated_or_kept_outside_the_default_set_up(
    load: Load, environment: dict[str, str], tmp_path: Path
) -> None:
    first, second = load(**environment), load(**environment)

    assert [problem.name for problem in problems(first)] == ["SECRET_KEY"]
    assert first["SECRET_KEY"] != second["SECRET_KEY"]
    assert not (tmp_path / "var" / "secret_key").exists()
    assert problems(load(SECRET_KEY=LONG_KEY, **environment)) == []


def test_the_generated_key_is_long_and_the_same_in_every_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from project import settings; print(settings.SECRET_KEY)"]
    env = clean_environment(tmp_path / "var")
    processes = [subprocess.Popen(command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (process.communicate(timeout=60)[0].strip() for process in processes)

    assert first == second
    assert len(first) >= 50
