"""Our words for where work stands, and Celery's."""

import pytest
from celery import states as celery_states

from handbell import states


@pytest.mark.parametrize(
    ("celery_state", "word"),
    [
        *((state, "queued") for state in ("PENDING", "RECEIVED", "RETRY")),
        ("STARTED", "running"),
        ("SUCCESS", "succeeded"),
        ("FAILURE", "failed"),
        ("REVOKED", "cancelled"),
        ("HALFWAY", "running"),
    ],
)
def test_a_state_of_celery_has_our_word(celery_state: str, word: str) -> None:
    assert states.word(celery_state) == word


def test_what_celery_counts_as_ready_counts_as_finished_and_nothing_else() -> None:
    for state in celery_states.ALL_STATES - {"IGNORED", "REJECTED"}:  # these two are never stored
        assert (states.word(state) in states.FINISHED) == (state in celery_states.READY_STATES), state


def test_filters_find_every_state_under_its_word() -> None:
    for word, found in states.CELERY_STATES.items():
        assert found
        assert all(states.word(state) == word for state in found)
