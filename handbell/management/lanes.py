"""`manage.py handbell lanes`: look at the lanes of serial work, and steer them."""

import argparse
from collections.abc import Callable
from typing import Any

from handbell.errors import LaneRefused
from handbell.management.base import ListingSubcommand
from handbell.management.output import print_json, print_table, seconds_shown
from handbell.serial import lanes
from handbell.serial.drain import LaneDrain

LANE_ACTIONS: dict[str, tuple[Callable[[int], None], str, str]] = {
    "pause": (lanes.pause, "let no further batch begin", "is paused"),
    "resume": (lanes.resume, "continue after a pause", "is resumed"),
    "skip": (lanes.skip, "continue after the failed operation that blocks a lane", "continues after what blocked it"),
    "retry": (lanes.retry, "run the operation that blocks a lane again", "runs what blocked it again"),
}


class LanesCommand(ListingSubcommand):
    help = "List the lanes with their depth and the age of their oldest operation; pause, resume, skip, retry, drain."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = self.add_list(parser, "every lane")
        for name, (_, text, _) in LANE_ACTIONS.items():
            action = self.add_action(actions, name, text)
            which = action.add_mutually_exclusive_group(required=True)
            which.add_argument("lane", nargs="?", type=int, help="the lane's number")
            which.add_argument("--all", action="store_true", help="every lane")
        drain = self.add_action(actions, "drain", "apply what waits")
        drain.add_argument("lane", nargs="?", type=int, help="the lane's number; without it, every lane")
        drain.add_argument("--now", action="store_true", required=True, help="in this process, without a worker")
        resize = self.add_action(actions, "resize", "have another number of lanes; nothing is reordered")
        resize.add_argument("count", type=int, help="how many, from 1 to 1024")

    def handle(self, **options: Any) -> None:
        action = options["action"] or "list"
        if action == "list":
            self._list(as_json=options["json"])
        elif action == "resize":
            moved = lanes.resize(options["count"])
            self.stdout.write(f"There are {options['count']} lanes now. {moved} waiting operations have moved.")
        elif action == "drain":
            self._drain(options["lane"])
        else:
            self._steer(action, options["lane"], everything=options["all"])

    def _steer(self, action: str, lane: int | None, *, everything: bool) -> None:
        steer, _, done = LANE_ACTIONS[action]
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
            raise LaneRefused(f"There is no lane {lane}. `manage.py handbell lanes` lists them.")
        for number in numbers:
            drain = LaneDrain(number)
            while drain.run():
                pass
            if drain.applied or lane is not None:
                self.stdout.write(f"Lane {number}: {drain.applied:,} operations applied.")

    def _list(self, *, as_json: bool) -> None:
        if as_json:
            print_json(self.stdout, [lane_as_json(found) for found in lanes.overview()])
            return
        headings = ("lane", "state", "depth", "oldest", "last drained")
        print_table(self.stdout, headings, {"lane", "depth", "oldest"}, map(_row, lanes.overview()))


def lane_as_json(found: lanes.LaneOverview) -> dict[str, Any]:
    lane = found.lane
    state = "blocked" if lane.blocked_by is not None else "paused" if lane.paused else "open"
    return {
        "lane": lane.pk,
        "state": state,
        "blocked_by": lane.blocked_by,
        "depth": found.depth,
        "oldest": found.oldest,
        "last_drained": lane.drained_at,
    }


def _row(found: lanes.LaneOverview) -> tuple[str, ...]:
    depth = f"{found.depth:,}" + ("+" if found.depth >= lanes.MAX_DEPTH_COUNTED else "")
    drained = f"{found.lane.drained_at:%Y-%m-%d %H:%M:%S}" if found.lane.drained_at else "never"
    return (str(found.lane.pk), found.state, depth, seconds_shown(found.oldest), drained)
