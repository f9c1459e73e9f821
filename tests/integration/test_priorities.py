"""A priority means the same on every broker: 9 is taken first, and none given counts as 5."""

from tests.servers import wait_for
from tests.system import System


def test_the_highest_priority_is_taken_first(system: System) -> None:
    lines = system.folder.parent / f"{system.folder.name}.lines"
    given = [3, 9, 0, 6, 1, 8, 4, 2, 7, None]
    system.python(f"""
from tests.tasks import write_line
for priority in {given}:
    for nth in range(2):
        options = {{}} if priority is None else {{"priority": priority}}
        write_line.apply_async(({str(lines)!r}, f"{{5 if priority is None else priority}}{{'ab'[nth]}}"), **options)
answer = None""")

    with system.worker("-Q", "serial", "-c", "1", "--include=tests.tasks"):
        wait_for(lambda: lines.exists() and len(lines.read_text().split()) == 20, "all tasks have run")

    assert lines.read_text().split() == [f"{priority}{nth}" for priority in range(9, -1, -1) for nth in "ab"]
