"""`manage.py lanes`: look at the lanes of serial work, and steer them."""

import argparse
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand

from tasks_app.errors import LaneRefused
from tasks_app.management.output import print_table, refusals_as_sentences
from tasks_app.serial import lanes
from tasks_app.serial.drain import Drain

ACTIONS: dict[str, tuple[Callable[[int], None], str, str]] = {
    "pause": (lanes.pause, "let no further batch begin", "is paused"),
    "resume": (lanes.resume, "go on after a pause", "goes on"),
    "skip": (lanes.skip, "leave the operation that blocks a lane failed, and go on", "goes on after what blocked it"),
    "retry": (lanes.retry, "run the operation that blocks a lane again", "tries again what blocked it"),
}


class Command(BaseCommand):
    help = "List the lanes with their depth and the age of their oldest operation; pause, resume, skip, retry, drain."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="ACTION")
        actions.add_parser("list", help="every lane (this is what happens without an action)")
        for name, (_, text, _) in ACTIONS.items():
            action = actions.add_parser(name, help=text)
            which = action.add_mutually_exclusive_group(required=True)
            which.add_argument("lane", nargs="?", type=int, help="the lane's number")
            which.add_argument("--all", action="store_true", help="every lane")
        drain = actions.add_parser("drain", help="apply what waits")
        drain.add_argument("lane", nargs="?", type=int, help="the lane's number; without it, every lane")
        drain.add_argument("--now", action="store_true", required=True, help="in this process, without a worker")
        resize = actions.add_parser("resize", help="have another number of lanes; nothing is reordered")
        resize.add_argument("count", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        action = options["action"] or "list"
        with refusals_as_sentences():
            if action == "list":
                self._list()
            elif action == "resize":
                moved = lanes.resize(options["count"])
                self.stdout.write(f"There are {options['count']} lanes now. {moved} waiting operations have moved.")
            elif action == "drain":
                self._drain(options["lane"])
            else:
                self._steer(action, options["lane"], everything=options["all"])

    def _steer(self, action: str, lane: int | None, *, everything: bool) -> None:
        steer, _, done = ACTIONS[action]
        blocked_only = action in {"skip", "retry"}
        chosen = [
            found.lane.pk
            for found in lanes.overview()
            if (everything or found.lane.pk == lane) and (not everything or not blocked_only or found.lane.blocked_by)
        ]
        for number in chosen if everything else [lane or 0]:
            steer(number)
            self.stdout.write(f"Lane {number} {done}.")

    def _drain(self, lane: int | None) -> None:
        numbers = [found.lane.pk for found in lanes.overview() if lane in {None, found.lane.pk}]
        if not numbers:
            raise LaneRefused(f"There is no lane {lane}. `manage.py lanes` lists them.")
        for number in numbers:
            drain = Drain(number, deaths=0, careful=0)
            while drain.run():
                pass
            if drain.applied or lane is not None:
                self.stdout.write(f"Lane {number}: {drain.applied:,} operations applied.")

    def _list(self) -> None:
        headings = ("lane", "state", "depth", "oldest", "last drained")
        print_table(self.stdout, headings, {"lane", "depth", "oldest"}, map(_row, lanes.overview()))


def _row(found: lanes.Overview) -> tuple[str, ...]:
    depth = f"{found.depth:,}" + ("+" if found.depth >= lanes.DEEPEST else "")
    oldest = f"{found.oldest.total_seconds():.1f} s" if found.oldest is not None else ""
    drained = f"{found.lane.drained_at:%Y-%m-%d %H:%M:%S}" if found.lane.drained_at else "never"
    return (str(found.lane.pk), found.state, depth, oldest, drained)
