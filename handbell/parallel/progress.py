"""A job's progress bar in the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from handbell.models import JobRow


@contextmanager
def progress_bar(name: str, *, shown: bool) -> Iterator[Callable[[JobRow], None]]:
    """Draws a bar on standard error while the block runs; what it yields shows a job as it is."""
    if not shown:
        yield lambda job: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, rate="", failed="")

        def show(job: JobRow) -> None:
            is_known = job.source_state == job.COMPLETE
            speed = bar.tasks[0].speed
            bar.update(
                task,
                completed=job.done,
                total=job.total if is_known else None,
                rate=f"{speed:,.0f}/s" if speed else "",
                failed=f"[red]{job.failed:,} failed[/]" if job.failed else "",
            )

        yield show
