"""The pytest plugin: the fixture `handbell`."""

from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture
def handbell() -> Iterator[ModuleType]:
    """`handbell.testing`, with nothing sent to a broker while the test runs: `handbell.run_all()`."""
    from handbell import testing  # noqa: PLC0415  (it needs the app registry)

    with testing.without_broker():
        yield testing
