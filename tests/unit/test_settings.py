"""Settings: what is wrong with them is said in a sentence before anything starts, and secrets are kept."""

import os
import runpy
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.conf import settings as configured
from django.test import Client

from project.environment import Problem
from tasks_app.secrets import kept_secret
from tests.system import MANAGE, ROOT

Load = Callable[..., dict[str, Any]]
LONG_KEY = "only-for-tests." * 5
NAMES = [variable.name for variable in configured.ENV.variables]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Runs project/settings.py with these variables and no others of the project's; what it defines."""

    def run(**environment: str) -> dict[str, Any]:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in {"VAR_DIR": str(tmp_path / "var"), **environment}.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(ROOT / "project" / "settings.py"))

    return run


def problems(loaded: dict[str, Any]) -> list[Problem]:
    found: list[Problem] = loaded["ENV"].problems
    return found


def clean_environment(folder: Path, **environment: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    return {**inherited, "VAR_DIR": str(folder), **environment}


# --- Said before anything starts ---------------------------------------------------------------------------------

Checks = dict[str, "subprocess.CompletedProcess[str]"]
WRONG = {
    "a database": {"DATABASE_URL": "mysql://user:hush@db/name", "SECRET_KEY": LONG_KEY},
    "a broker": {"CELERY_BROKER_URL": "kafka://user:hush@mq", "SECRET_KEY": LONG_KEY},
    "a result backend": {"CELERY_RESULT_BACKEND": "redis://user:hush@127.0.0.1:port/1"},
    "another result backend": {"CELERY_RESULT_BACKEND": "rabbit://user:hush@127.0.0.1"},
    "no key": {"DATABASE_URL": "postgres://user:hush@127.0.0.1:1/name"},
    "a level": {"LOG_LEVEL": "LOUD"},
    "a number": {"CPU_CONCURRENCY": "0"},
    "a folder": {"VAR_DIR": __file__},
}
DEPLOYED = {"SECRET_KEY": LONG_KEY, "HTTPS": "yes", "ALLOWED_HOSTS": "example.org"}


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
    ("why", "sentence", "mend"),
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
        ("a number", "CPU_CONCURRENCY is 0.", "Set it to a whole number from 1 to 1000."),
        (
            "a folder",
            f"VAR_DIR is {__file__}, which cannot be written to (File exists).",
            "Set it to a folder you may write to.",
        ),
    ],
)
def test_check_names_the_variable_and_the_mend_and_exits_with_1(
    why: str, sentence: str, mend: str, checks: Checks
) -> None:
    done = checks[why]

    assert done.returncode == 1
    assert sentence in done.stderr
    assert mend in done.stderr
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
        (problem,) = problems(load(VAR_DIR=str(folder)))

        assert problem.name == "VAR_DIR", why
        assert f"VAR_DIR is {folder}, which cannot be written to" in problem.sentence, why
        assert problem.mend == "Set it to a folder you may write to."


def test_every_problem_is_said_at_once(load: Load) -> None:
    found = problems(load(DEBUG="perhaps", IO_CONCURRENCY="x", LOG_LEVEL="x", FLOWER_BASIC_AUTH="x", HTTPS="perhaps"))

    assert {problem.name for problem in found} == {"DEBUG", "IO_CONCURRENCY", "LOG_LEVEL", "FLOWER_BASIC_AUTH", "HTTPS"}


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
    loaded = load(VAR_DIR=str(tmp_path / name))

    assert loaded["DATABASES"]["default"]["NAME"] == str(tmp_path / name / "db.sqlite3")
    assert loaded["EMBEDDED_BROKER_USED"]
    assert problems(loaded) == []


@pytest.mark.parametrize(
    "url",
    [
        *("redis", "redis:", "nonsense", "http://h", "memory://", "sentinel://h", "amqp:/h", "://"),
        *("redis://h:port/0", "redis://h:0/0", "redis://h:99999/0", "redis://h/zero", "amqp://h:port//"),
        *("amqp://h//;nonsense", "amqp://h//;"),
    ],
)
def test_what_is_no_address_of_a_broker_is_refused(load: Load, url: str) -> None:
    found = problems(load(CELERY_BROKER_URL=url, SECRET_KEY=LONG_KEY))
    assert [problem.name for problem in found] == ["CELERY_BROKER_URL"]


@pytest.mark.parametrize(
    "url",
    [
        *("amqp://", "amqp://u:p@h:5672/vhost", "amqps://h//", "pyamqp://h//", "amqp://a//;amqp://b//"),
        *("redis://h", "redis://h/", "redis://:p@h:6379/3", "rediss://h:6379/0?ssl_cert_reqs=required"),
        "redis+socket:///run/valkey.sock",
    ],
)
def test_the_address_of_a_broker_is_taken(load: Load, url: str) -> None:
    loaded = load(CELERY_BROKER_URL=url, SECRET_KEY=LONG_KEY)

    assert problems(loaded) == []
    assert not loaded["EMBEDDED_BROKER_USED"]


@pytest.mark.parametrize(
    "environment",
    [
        {"DATABASE_URL": "mysql://user:hush@h/x"},
        {"CELERY_BROKER_URL": "kafka://user:hush@h"},
        {"FLOWER_BASIC_AUTH": "hush"},
    ],
)
def test_a_sentence_never_repeats_a_password(load: Load, environment: dict[str, str]) -> None:
    found = problems(load(SECRET_KEY=LONG_KEY, **environment))

    assert found
    assert "hush" not in str(found)


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


def test_a_kept_secret_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret = kept_secret(tmp_path / "new" / "secret")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "new" / "secret").stat().st_mode) == 0o600
    assert kept_secret(tmp_path / "new" / "secret") == secret


def test_ten_processes_that_make_a_secret_at_once_get_the_same_one(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from tasks_app.secrets import kept_secret;"
        "sys.stdin.readline(); print(kept_secret(pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "secret")]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe) for _ in range(10)]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    secrets = {process.communicate(timeout=20)[0].strip() for process in processes}

    assert secrets == {(tmp_path / "secret").read_text()}
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_the_secret_of_a_process_that_was_faster_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "secret"

    def meanwhile(size: int) -> str:
        path.write_text("of the faster one")
        return "draft"

    monkeypatch.setattr("tasks_app.secrets.secrets.token_hex", meanwhile)

    assert kept_secret(path) == "of the faster one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_that_could_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has /dev/full")
    code = (
        "import resource, signal, sys, pathlib; from tasks_app.secrets import kept_secret;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "kept_secret(pathlib.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "secret")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
