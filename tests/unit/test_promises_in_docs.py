"""What the README and the diagram promise stands in a test and in the code."""

import re
from xml.etree import ElementTree

from handbell import states
from tests.system import ROOT

STATES = {states.WAITING, states.QUEUED, states.RUNNING, *states.FINISHED}
DOT = (ROOT / "docs/states.dot").read_text()


def test_each_row_of_what_changes_names_a_test_that_exists() -> None:
    rows = re.findall(r"\(\[test\]\((tests/[\w/]+\.py)\), `(test_\w+)`\)", (ROOT / "README.md").read_text())
    assert len(rows) == 6
    for file, name in rows:
        assert f"def {name}(" in (ROOT / file).read_text(), name


def test_the_diagram_has_the_states_that_there_are() -> None:
    edges = re.findall(r"^\s*(\w+) -> (\w+)", DOT, re.MULTILINE)
    assert {name for edge in edges for name in edge} == STATES | {"call"}


def test_the_diagram_is_rendered_from_its_source() -> None:
    picture = ElementTree.parse(ROOT / "docs/states.svg")
    texts = [it.text or "" for it in picture.iter("{http://www.w3.org/2000/svg}text")]
    labels = re.findall(r'label="([^"]+)"', DOT)
    assert sorted(texts) == sorted([*STATES, *labels])


def test_the_page_about_it_describes_each_state() -> None:
    text = (ROOT / "docs/the-life-of-a-call.md").read_text()
    described = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE))
    assert set(described) == STATES
    for celery_state, word in {
        "PENDING": "queued",
        "STARTED": "running",
        "SUCCESS": "succeeded",
        "REVOKED": "cancelled",
    }.items():
        assert f"`{celery_state}`" in described[word]
