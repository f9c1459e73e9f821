"""Parallel work: a job applies tasks to every item of a source, on every core of every machine that has a worker.

Start one with `over(source).map(task).start()`.
"""

from tasks_app.parallel.declare import Pipeline, over
from tasks_app.parallel.work import work

__all__ = ["Pipeline", "over", "work"]
