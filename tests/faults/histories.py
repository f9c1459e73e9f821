"""The histories of a run, by call."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.faults.history import Event

SECOND = 1_000_000_000
BEFORE = "before the first fault"


@dataclass
class Call:
    """What its caller and the observer wrote of a call."""

    invoked: Event
    acknowledged: int | None = None
    ended: float = float("inf")  # as seen from outside


class Histories:
    """What callers, tasks and the harness wrote, by call."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.calls: dict[str, Call] = {}
        self.begun: dict[str, list[Event]] = defaultdict(list)
        self.reads: list[Event] = []
        self.faults: list[Event] = []
        self._dead: set[int] = set()  # pids of processes that were killed, stopped or frozen
        for event in sorted(events, key=lambda it: it["at"]):
            self._add(event)
        self.faults.sort(key=lambda it: it["begin"])
        for name, call in self.calls.items():
            if call.invoked["kind"] == "poison":
                self._dead.update(event["pid"] for event in self.begun[name])

    def _add(self, event: Event) -> None:
        match event["what"]:
            case "invoked":
                self.calls[event["call"]] = Call(event)
            case "acknowledged":
                self.calls[event["call"]].acknowledged = event["at"]
            case "ended" if event["call"] in self.calls:
                self.calls[event["call"]].ended = event["at"]
            case "begun":
                self.begun[event["call"]].append(event)
            case "read":
                self.reads.append(event)
            case "fault":
                self.faults.append(event)
            case "hurt":
                self._dead.update(event["pids"])

    def fault_at(self, moment: float) -> Event | None:
        """The fault that a call made at that moment lives through: the last one that has begun, or does in a second."""
        found = None
        for fault in self.faults:
            if fault["begin"] - SECOND > moment:
                break
            found = fault
        return found

    def is_forgotten(self, begin: float, end: float | None = None) -> bool:
        """Whether the database lost commits at that moment, or between these two, so that nothing was promised."""
        return any(
            fault.get("forgets") and fault["begin"] - SECOND < (end or begin) and begin < fault["over"] + SECOND
            for fault in self.faults
        )

    def named_at(self, moment: float) -> str:
        fault = self.fault_at(moment)
        return str(fault["name"]) if fault else BEFORE

    def moment_of(self, name: str) -> float:
        """When a call, or one that it consists of, was made; or else, when it began."""
        if known := self.calls.get(name.partition("/")[0]):
            return float(known.invoked["at"])
        return min((event["at"] for event in self.begun[name]), default=0)

    def was_hurt(self, begun: Event) -> bool:
        """Whether something was done to the process that began a call, or to its parent."""
        return bool({begun["pid"], begun.get("parent")} & self._dead)

    def explains_loss(self, name: str) -> bool:
        """Whether a call that may begin only once may be lost: its process was hurt, or, if nobody knows which process
        had claimed it, some process was, or the database was out of reach.
        """
        if any(map(self.was_hurt, self.begun[name])):
            return True
        fault = self.fault_at(self.moment_of(name))
        return fault is not None and (fault["may_begin_again"] or (bool(self._dead) and not self.begun[name]))

    def explains_second_run(self, first: Event, second: Event) -> bool:
        """Whether there is a reason for a call to have begun again."""
        if self.was_hurt(first):
            return True
        return any(
            fault["may_begin_again"]
            and fault["begin"] - SECOND < second["at"]
            and first["at"] < fault["over"] + 10 * SECOND
            for fault in self.faults
        )
