"""The engine's settings: each is read and checked as it is declared; a wrong value is said in a sentence."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

from handbell import conf as module
from handbell import settings_from_environment
from handbell.conf import Problem, Setting, conf, declared_settings, problems

SETTINGS: dict[str, Setting[Any]] = {setting.name: setting for setting in declared_settings()}


@pytest.fixture(autouse=True)
def _nothing_is_set(settings: LazySettings) -> None:
    for name in SETTINGS:
        setattr(settings, name, None)


def test_what_is_not_set_has_its_default() -> None:
    assert conf.LEASE_SECONDS == 15
    assert conf.CHUNK_SECONDS == 1.0
    assert conf.QUEUES == "handbell.queues.QUEUES"
    assert conf.CONCURRENCY == {}
    assert conf.FLOWER_BASIC_AUTH == ""
    assert problems() == []


def test_the_data_folder_is_in_that_of_the_project(settings: LazySettings, tmp_path: Path) -> None:
    settings.BASE_DIR = tmp_path
    assert tmp_path / "var" == conf.DATA_DIR
    settings.HANDBELL_DATA_DIR = str(tmp_path / "other")
    assert tmp_path / "other" == conf.DATA_DIR


@pytest.mark.parametrize("name", SETTINGS)
def test_every_default_is_a_value_that_may_be_set(name: str) -> None:
    setting = SETTINGS[name]

    assert setting.checked(setting.default) == setting.default == setting.value


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_described_on_one_line(name: str) -> None:
    setting = SETTINGS[name]

    assert name.startswith("HANDBELL_")
    assert setting.purpose.endswith((".", "`."))
    assert not {"|", "\n"} & set(setting.purpose + setting.default_shown + setting.allowed)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("LEASE_SECONDS", 3, 3),
        ("LEASE_SECONDS", " 60 ", 60),
        ("CHUNK_SECONDS", 2, 2.0),
        ("CHUNK_SECONDS", "0.25", 0.25),
        ("SERIAL_UNKNOWN_TASKS", "wait", "wait"),
        ("CONCURRENCY", "cpu=4, io=32,", {"cpu": 4, "io": 32}),
        ("CONCURRENCY", {"cpu": 4}, {"cpu": 4}),
        ("CONCURRENCY", "", {}),
        ("FLOWER_BASIC_AUTH", "user:password", "user:password"),
    ],
)
def test_a_right_value_is_taken_also_from_text(name: str, value: Any, meant: Any, settings: LazySettings) -> None:
    setattr(settings, f"HANDBELL_{name}", value)

    assert getattr(conf, name) == meant
    assert problems() == []


WRONG_NUMBERS: tuple[Any, ...] = ("many", 0, "nan", "inf", [])


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(("LEASE_SECONDS", value, "a whole number from 3 to 86400") for value in ("many", "2.5", 2, -1, True, 10**9)),
        ("LEASE_SECONDS", "9" * 5000, "a whole number from 3 to 86400"),
        *(("CHUNK_SECONDS", value, "a number from 0.001 to 3600") for value in WRONG_NUMBERS),
        *(("SERIAL_UNKNOWN_TASKS", value, "fail or wait") for value in ("FAIL", 1)),
        *(
            ("CONCURRENCY", value, "a list of name=number, each from 1 to 1000")
            for value in ("cpu", "cpu=0", "cpu=1001", "cpu=x", {"cpu": 0}, {"cpu": True}, {1: 1}, 4)
        ),
        *(("DATA_DIR", value, "a folder") for value in ("", "  ", 7, "nul\0")),
        ("QUEUES", ["tasks_app.queues"], "text"),
    ],
)
def test_a_wrong_value_gives_the_default_and_a_sentence(
    name: str, value: Any, allowed: str, settings: LazySettings
) -> None:
    name = f"HANDBELL_{name}"
    setattr(settings, name, value)

    assert SETTINGS[name].value == SETTINGS[name].default
    assert problems() == [Problem(name, f"{name} is {value!r}, which is not {allowed}.", f"Set it to {allowed}.")]


def test_a_secret_is_not_repeated(settings: LazySettings) -> None:
    settings.HANDBELL_FLOWER_BASIC_AUTH = "hush"

    (problem,) = problems()
    assert problem.sentence == "HANDBELL_FLOWER_BASIC_AUTH is not user:password."
    assert "hush" not in str(problem)


def test_every_problem_is_said_at_once(settings: LazySettings) -> None:
    settings.HANDBELL_LEASE_SECONDS, settings.HANDBELL_LAUNCH_MEMORY_MB = "x", 1

    assert [problem.name for problem in problems()] == ["HANDBELL_LEASE_SECONDS", "HANDBELL_LAUNCH_MEMORY_MB"]


def test_environment_variables_of_the_same_names_set_them() -> None:
    environment = {"HANDBELL_LEASE_SECONDS": "30", "HANDBELL_QUEUES": " ", "HANDBELL_NONSENSE": "1", "PATH": "/bin"}

    assert settings_from_environment(environment) == {"HANDBELL_LEASE_SECONDS": "30"}


def test_nothing_but_declarations_is_in_the_class() -> None:
    assert {name for name in vars(module.Conf) if name.isupper()} == {
        name.removeprefix("HANDBELL_") for name in SETTINGS
    }
