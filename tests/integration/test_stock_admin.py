"""Handbell's pages in Django's own admin: the tests of the admin that concern them, run again without unfold."""

import os
import subprocess
import sys

from tests.system import ROOT

CHOSEN = (
    *("every_list_and_every_row_opens", "an_onlooker_sees_rows", "only_who_may_change", "whatever_its_schedule"),
    *("neither_added_nor_changed", "deleted_or_the_page_says", "longer_list", "filters_and_search"),
    *("html_in_what", "the_look_is"),
)
PROJECTS_OWN = ("[Run]", "[Entry]", "[Counter]", "[Score]", "test_a_run")


def test_the_pages_work_without_unfold() -> None:
    selection = f"({' or '.join(CHOSEN)}) and not ({' or '.join(PROJECTS_OWN)})"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_admin.py", "-k", selection],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.unit.stock_admin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
