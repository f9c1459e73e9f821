"""Any text can be stored, with NUL and lone surrogates, in arguments, results, errors and tracebacks."""

import json
from typing import Any

import pytest
from celery import current_app
from celery.app.task import Context

from handbell.common import codec
from handbell.errors import NotJson
from tests import launches, plain
from tests.unit.test_rubbish import take_in_order

AWKWARD = "a\0b \ud800 c"


class Awkward(Exception):
    """An error with whatever one likes in it."""


@pytest.mark.django_db
def test_a_plain_task_may_have_and_return_any_text() -> None:
    result: Any = plain.take.delay(0, value=AWKWARD)
    current_app.backend.mark_as_done(result.id, AWKWARD, Context(id=result.id))

    assert (result.state, result.get()) == ("SUCCESS", AWKWARD)


@pytest.mark.django_db
def test_an_error_and_its_traceback_may_hold_any_text() -> None:
    result: Any = plain.take.delay(0)
    request = Context(id=result.id)
    current_app.backend.mark_as_failure(result.id, ValueError(AWKWARD), f"Traceback: {AWKWARD}", request=request)

    assert result.traceback == "Traceback: a\\x00b \\ud800 c"
    with pytest.raises(ValueError, match="a\0b"):
        result.get()


def test_text_that_can_be_stored_is_left_as_it_is() -> None:
    assert codec.storable("größer, 数, 😀\n") == "größer, 数, 😀\n"
    assert codec.decode_output("größer\n".encode()) == "größer\n"


def test_what_cannot_be_stored_is_shown_as_its_code() -> None:
    assert codec.storable(AWKWARD) == "a\\x00b \\ud800 c"
    assert codec.decode_output(b"a\0b \xff") == "a\\x00b \\xff"


def test_a_long_traceback_keeps_its_end() -> None:
    error = Awkward(f"{'x' * codec.MAX_TRACEBACK_CHARACTERS} the end")

    text = codec.formatted_traceback(error)

    assert len(text) <= codec.MAX_TRACEBACK_CHARACTERS + 1
    assert text.rstrip().endswith("the end")


def test_an_error_is_stored_as_celery_stores_one() -> None:
    stored = json.loads(codec.encode_error(Awkward(AWKWARD, 1)))

    assert stored == {"exc_type": "Awkward", "exc_message": [AWKWARD, 1], "exc_module": __name__}
    assert json.loads(codec.encode_error(Awkward(object())))["exc_message"][0].startswith("<object object")


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_what_json_cannot_hold_is_refused_in_a_sentence(value: object) -> None:
    with pytest.raises(NotJson, match=r"These must be JSON: .+ Pass keys, numbers"):
        codec.encode_arguments("These", ((value,), {}))
    with pytest.raises(NotJson, match=r"a\.task returned what JSON cannot hold: "):
        codec.encode_result("a.task", value)


def test_arguments_and_results_come_back_as_they_were() -> None:
    text = codec.encode_arguments("These", ((1, AWKWARD), {"by": [None, 2.5]}))

    assert codec.decode_arguments(text) == ([1, AWKWARD], {"by": [None, 2.5]})
    assert [json.loads(codec.encode_result("a.task", value)) for value in (7, True, None)] == [7, True, None]


def nested(depth: int) -> Any:
    found: Any = "[" * 1000 + '\\"['  # brackets in a text are none
    for number in range(depth):
        found = [found, "]"] if number % 2 else {"{": found}
    return found


@pytest.mark.django_db
@pytest.mark.parametrize("call", [plain.take.delay, launches.nothing.launch, take_in_order.delay])
def test_arguments_that_are_nested_more_deeply_than_a_worker_can_read_are_refused(call: Any) -> None:
    with pytest.raises(NotJson, match="no more than 200 lists and dicts inside of each other"):
        call(nested(250))
    call(nested(190))
