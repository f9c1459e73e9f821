"""Variables are read once, checked, and described; a wrong one becomes a sentence, never an exception."""

from collections.abc import Callable

import pytest

from project.environment import Environment, Variable

READERS: dict[str, tuple[Callable[[Environment], object], object]] = {
    "text": (lambda env: env.text("THING", "default", "For tests."), "default"),
    "boolean": (lambda env: env.boolean("THING", True, "For tests."), True),
    "names": (lambda env: env.names("THING", ["a", "b"], "For tests."), ["a", "b"]),
    "number": (lambda env: env.number("THING", 7, "For tests.", minimum=1, maximum=9), 7),
}


@pytest.mark.parametrize("value", [None, "", "   "])
@pytest.mark.parametrize("kind", READERS)
def test_an_unset_or_empty_variable_has_its_default(
    kind: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THING", raising=False)
    if value is not None:
        monkeypatch.setenv("THING", value)
    env = Environment()
    read, default = READERS[kind]

    assert read(env) == default
    assert not env.is_set("THING")
    assert env.problems == []


@pytest.mark.parametrize(
    ("kind", "value", "meant"),
    [
        ("text", "any $text {{at}} all: ü", "any $text {{at}} all: ü"),
        *(("boolean", word, True) for word in ("yes", "Yes", "on", "1", "true")),
        *(("boolean", word, False) for word in ("no", "No", "off", "0", "false")),
        ("names", "one", ["one"]),
        ("names", " one , two,,three ", ["one", "two", "three"]),
        ("number", "1", 1),
        ("number", "9", 9),
        ("number", " 5 ", 5),
    ],
)
def test_a_right_value_is_taken(kind: str, value: str, meant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING", value)
    env = Environment()

    assert READERS[kind][0](env) == meant
    assert env.is_set("THING")
    assert env.problems == []


@pytest.mark.parametrize(
    ("kind", "value", "sentence", "fix"),
    [
        ("boolean", "maybe", "THING is 'maybe', which is not yes or no.", "Set it to yes or no."),
        ("number", "many", "THING is 'many', which is not a whole number.", "Set it to a whole number."),
        ("number", "2.5", "THING is '2.5', which is not a whole number.", "Set it to a whole number."),
        ("number", "0", "THING is 0.", "Set it to a whole number from 1 to 9."),
        ("number", "10", "THING is 10.", "Set it to a whole number from 1 to 9."),
        ("number", "-3", "THING is -3.", "Set it to a whole number from 1 to 9."),
        ("names", " , ", "THING names nothing.", "Set it to a list with commas, or unset it."),
    ],
)
def test_a_wrong_value_gives_the_default_and_a_sentence_with_the_name_and_the_fix(
    kind: str, value: str, sentence: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THING", value)
    env = Environment()
    read, default = READERS[kind]

    assert read(env) == default
    assert [(problem.name, problem.sentence, problem.fix) for problem in env.problems] == [("THING", sentence, fix)]


def test_a_number_of_five_thousand_digits_is_refused_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING", "9" * 5000)
    env = Environment()

    assert env.number("THING", 7, "For tests.") == 7
    assert [problem.name for problem in env.problems] == ["THING"]


def test_every_variable_is_remembered_with_the_default_that_people_are_shown() -> None:
    env = Environment()
    env.text("PLAIN", "x", "1.")
    env.text("SECRET", "hidden", "2.", shown="a generated one")
    env.boolean("SWITCH", False, "3.")
    env.names("LIST", ["a", "b"], "4.")
    env.number("COUNT", 4, "5.")
    env.number("CORES", 4, "6.", shown="one per core")

    assert env.variables == [
        Variable("PLAIN", "x", "1."),
        Variable("SECRET", "a generated one", "2."),
        Variable("SWITCH", "no", "3."),
        Variable("LIST", "a,b", "4."),
        Variable("COUNT", "4", "5."),
        Variable("CORES", "one per core", "6."),
    ]
