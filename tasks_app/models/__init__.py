"""The tables of this project."""

from tasks_app.models.counter import Counter, PlainCounter
from tasks_app.models.entry import Entry
from tasks_app.models.run import Run
from tasks_app.models.score import Score
from tasks_app.models.throttle import Throttle

__all__ = ["Counter", "Entry", "PlainCounter", "Run", "Score", "Throttle"]
