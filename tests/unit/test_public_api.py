"""What `import handbell` offers: the names, where they come from, and what happens without Django."""

import ast
import subprocess
import sys
from pathlib import Path

import django
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

import handbell
from tests.system import ROOT

#: Whoever adds or removes a public name does so here, too, and in CHANGELOG.md.
PUBLIC_NAMES = """
    CORES ISOLATED_QUEUE SERIAL_QUEUE ArgumentsTooLarge BrokerUnavailable Celery HandbellError IsolatedTask ItemFailed
    ItemTimedOut Job
    JobRefused Lane LaneRefused Launch LaunchRefused NotJson Operation OutsideLane Pipeline ProcessDied Queue
    ReadOnlyAdmin ResultTooLarge RowMissing SerialModel SerialTask UnknownTask bulk delete_finished isolated_task
    kept_secret lanes launches outside_lanes over require_broker serial_task settings_from_environment states status
""".split()


def test_the_public_names_are_these() -> None:
    assert sorted(handbell.__all__) == sorted(PUBLIC_NAMES)
    assert dir(handbell) == sorted([*PUBLIC_NAMES, "__version__"])


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_a_public_name_is_there_and_is_what_its_module_has(name: str) -> None:
    value = getattr(handbell, name)

    module = handbell._LOADED_FROM.get(name, "handbell.errors")
    if name != "states":
        assert getattr(sys.modules[module], name) is value


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'handbell' has no attribute 'serial_tsk'"):
        handbell.serial_tsk  # type: ignore[attr-defined]  # noqa: B018


def test_what_type_checkers_see_is_what_is_loaded() -> None:
    tree = ast.parse(Path(handbell.__file__).read_text())
    (block,) = [it for it in tree.body if isinstance(it, ast.If) and ast.unparse(it.test) == "TYPE_CHECKING"]

    assert _imported(block.body) == handbell._LOADED_FROM
    at_once = _imported(tree.body).keys() - {"TYPE_CHECKING", "Any"}
    assert sorted([*at_once, *handbell._LOADED_FROM]) == sorted(handbell.__all__)


def _imported(statements: list[ast.stmt]) -> dict[str, str]:
    """The names that these statements import, and from which module."""
    return {name.name: str(it.module) for it in statements if isinstance(it, ast.ImportFrom) for name in it.names}


def _python(code: str) -> str:
    """What a fresh Python without Django's settings says."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_can_be_imported_without_django() -> None:
    loaded = _python("import handbell, sys; print(handbell.HandbellError.__name__, 'django' in sys.modules)")

    assert loaded.split() == ["HandbellError", "False"]


def test_what_a_settings_module_and_a_celery_module_use_needs_no_settings() -> None:
    _python(
        "from handbell import CORES, ISOLATED_QUEUE, SERIAL_QUEUE, Celery, Queue, kept_secret, states; Celery('mysite')"
    )
    _python("import handbell; handbell.settings_from_environment({'HANDBELL_STOP_SECONDS': '5'})")


def use_before_and_after_django() -> None:
    """Run in a process of its own."""

    def use(name: str) -> None:
        try:
            found = getattr(handbell, name)
        except handbell.HandbellError as error:
            found = error
        sys.stdout.write(f"{found}\n")

    for name in ("serial_task", "Job", "delete_finished", "ReadOnlyAdmin"):
        use(name)
    settings.configure(INSTALLED_APPS=["django_celery_results", "django_celery_beat", "handbell"])
    use("Operation")
    handbell.Celery("mysite").set_current()
    django.setup()
    use("Operation")


def test_without_django_it_says_what_to_do_and_works_once_that_is_done() -> None:
    *said, last = _python(
        "from tests.unit import test_public_api; test_public_api.use_before_and_after_django()"
    ).splitlines()

    names = ["serial_task", "Job", "delete_finished", "ReadOnlyAdmin", "Operation"]
    for name, sentence in zip(names, said, strict=True):
        assert sentence.startswith(f"handbell.{name} needs Django: set DJANGO_SETTINGS_MODULE and call django.setup()")
    assert last == "<class 'handbell.models.operation.Operation'>"


def use_without(*missing: str) -> None:
    """Run in a process of its own: a project that has forgotten these apps calls a task."""
    installed = [name for name in ("django_celery_results", "django_celery_beat", "handbell") if name not in missing]
    settings.configure(INSTALLED_APPS=installed)
    app = handbell.Celery("mysite")
    try:
        django.setup()
        app.task(print).delay()
    except ImproperlyConfigured as error:
        sys.stdout.write(f"{error}\n")
    try:
        handbell.SerialModel  # noqa: B018
    except handbell.HandbellError as error:
        sys.stdout.write(f"{error}\n")


@pytest.mark.parametrize(
    ("missing", "first"),
    [
        ("handbell", "'handbell' is not in INSTALLED_APPS. Add it: calls are recorded in its tables."),
        (
            "django_celery_results",
            "'django_celery_results' is not in INSTALLED_APPS. Add it: results are kept in its table.",
        ),
    ],
)
def test_an_app_that_is_missing_is_named_in_a_sentence(missing: str, first: str) -> None:
    said = _python(f"from tests.unit import test_public_api; test_public_api.use_without({missing!r})").splitlines()

    assert said[0] == first
    if missing == "handbell":
        second = "handbell.SerialModel needs 'handbell' and 'django_celery_results' in INSTALLED_APPS. Django says: "
        assert said[1].startswith(second)
