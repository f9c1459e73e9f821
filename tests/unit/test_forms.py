"""The forms that start workloads: what they take, and what they say about the rest."""

from typing import Any

import pytest
from django.test import RequestFactory

from tasks_app.web.forms import FORMS, WorkloadForm
from tasks_app.workloads import WORKLOADS
from tasks_app.workloads.words import SAMPLES

GOOD: dict[str, dict[str, Any]] = {
    "serial": {"name": "visits", "threads": 10, "each": 20},
    "fibonacci": {"n": 20, "count": 300},
    "identifiers": {"count": 200, "chunk": 50},
    "words": {"urls": "http://127.0.0.1:8000/samples/json/", "words": "the, if"},
    "jobs": {"count": 100, "n": 20, "ids": 50},
    "visits": {"visits": 4},
    "launches": {"limit": 8},
    "periodic": {},
}


def filled(slug: str, **changes: Any) -> WorkloadForm:
    request = RequestFactory(headers={"host": "localhost:8123"}).get("/")
    return FORMS[slug]({**GOOD[slug], **changes}, request=request)


def test_every_workload_has_a_form_that_takes_what_it_suggests() -> None:
    assert list(FORMS) == list(WORKLOADS) == list(GOOD)
    request = RequestFactory().get("/")
    for slug, form in FORMS.items():
        suggested = {
            name: form(request=request).get_initial_for_field(field, name) for name, field in form.base_fields.items()
        }
        assert filled(slug, **suggested).is_valid(), slug


@pytest.mark.parametrize("slug", GOOD)
def test_good_values_become_inputs(slug: str) -> None:
    form = filled(slug)

    assert form.is_valid(), form.errors
    assert set(form.inputs()) - {"urls"} == set(GOOD[slug]) - {"urls"}


@pytest.mark.parametrize(
    ("slug", "field", "least", "most"),
    [
        ("serial", "threads", 1, 20),
        ("serial", "each", 1, 200),
        ("fibonacci", "n", 0, 35),
        ("fibonacci", "count", 1, 2000),
        ("identifiers", "count", 1, 1000),
        ("identifiers", "chunk", 1, 1000),
        ("jobs", "count", 1, 10_000_000),
        ("jobs", "n", 0, 30),
        ("jobs", "ids", 1, 1_000_000),
        ("visits", "visits", 1, 50),
        ("launches", "limit", 1, 50),
    ],
)
def test_numbers_have_limits_and_a_sentence_says_them(slug: str, field: str, least: int, most: int) -> None:
    for good in (least, most):
        assert filled(slug, **{field: good}).is_valid()
    for bad, sentence in (
        (least - 1, f"Ensure this value is greater than or equal to {least}."),
        (most + 1, f"Ensure this value is less than or equal to {most}."),
        ("many", "Enter a whole number."),
        ("2.5", "Enter a whole number."),
        ("", "This field is required."),
    ):
        assert filled(slug, **{field: bad}).errors == {field: [sentence]}


@pytest.mark.parametrize("name", ["visits", "a.b:c-d_e", "zähler", "x" * 100, " trimmed "])
def test_a_counter_may_have_any_simple_name(name: str) -> None:
    form = filled("serial", name=name)

    assert form.is_valid()
    assert form.inputs()["name"] == name.strip()


@pytest.mark.parametrize("name", ["a b", "a/b", "a\nb", "<b>", "", "   ", "x" * 101, "a\x00"])
def test_a_counter_may_have_no_other_name(name: str) -> None:
    assert list(filled("serial", name=name).errors) == ["name"]


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8000/samples/json/", "https://example.org", "HTTPS://example.org/?q=1#part"),
        *("http://localhost:8000/", "http://web:8000/page", "http://[::1]:8000/", "http://example.org/caf\xe9"),
    ],
)
def test_the_address_of_a_page_is_taken(url: str) -> None:
    form = filled("words", urls=url)

    assert form.is_valid(), form.errors
    assert form.inputs()["urls"] == [url]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "nonsense",
            "example.org/page",
            "//example.org/",
            "http://",
            "http:///path",
            "http:example.org",
            "http://:80/",
        ),
        *("file:///etc/passwd", "ftp://example.org/", "javascript:alert(1)", "http://[::1", "http://h:port/"),
        *("http://h:99999/", "http://h:0/"),
    ],
)
def test_what_is_no_address_is_named(url: str) -> None:
    form = filled("words", urls=f"http://example.org/ {url}")

    assert form.errors == {"urls": [f"{url} is not an http or https address."]}


def test_a_very_long_wrong_address_is_cut_short() -> None:
    assert filled("words", urls="x" * 5000).errors == {"urls": [f"{'x' * 100} is not an http or https address."]}


def test_pages_may_stand_on_lines_or_side_by_side_and_there_is_a_limit() -> None:
    url = "http://example.org/"

    mixed = filled("words", urls=f"  {url}\r\n\r\n{url}\t{url}")
    assert mixed.is_valid()
    assert mixed.inputs()["urls"] == [url] * 3
    assert filled("words", urls="\n".join([url] * 100)).is_valid()
    assert filled("words", urls="\n".join([url] * 101)).errors == {"urls": ["Enter at most 100 pages; there are 101."]}
    assert filled("words", urls=" \n ").errors == {"urls": ["This field is required."]}


@pytest.mark.parametrize(
    ("entered", "words"),
    [("the", ["the"]), ("The, IF return;object", ["the", "if", "return", "object"]), ("a b a A", ["a", "b"])],
)
def test_words_are_lower_case_and_each_counts_once(entered: str, words: list[str]) -> None:
    form = filled("words", words=entered)

    assert form.is_valid()
    assert form.inputs()["words"] == words


def test_words_have_limits() -> None:
    fifty = [f"{a}{b}" for a in "abcde" for b in "abcdefghij"]

    assert filled("words", words=" ".join(fifty)).is_valid()
    assert filled("words", words=" ".join([*fifty, "zz"])).errors == {
        "words": ["Enter at most 50 words; there are 51."]
    }
    assert filled("words", words="1, 2, !").errors == {"words": ["Enter at least one word."]}
    assert filled("words", words="").errors == {"words": ["This field is required."]}


def test_the_suggested_pages_are_this_sites_own_samples() -> None:
    request = RequestFactory(headers={"host": "localhost:8123"}).get("/")
    urls = FORMS["words"](request=request).initial["urls"].split()

    assert urls == [f"http://localhost:8123/samples/{name}/" for name in SAMPLES[:8]]
