"""A run on one system: faults are injected one after the other, each is given time to be over, and what came of it is
watched from outside.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults import checker
from tests.faults.faulting import Fault, Skipped
from tests.faults.ground import Ground, left_running, running
from tests.faults.history import Event, Tail, now
from tests.servers import wait_for

KINDS = ("plain", "canvas", "serial", "external", "job", "launch", "web", "periodic")
STUCK_SECONDS = 10.0
MAX_RECOVERY_SECONDS = 60.0
DRAIN_SECONDS = 90.0
NS = 1e9


@dataclass
class Injection:
    """A fault that was injected, or skipped: from when to when, and how long the system took to be itself again.

    `recovered` are the seconds by kind of work; a kind that did not recover is missing. `stuck` are the calls that had
    been acknowledged before the fault was over and had not ended ten seconds after, or later where calls are slow.
    """

    fault: Fault
    begin: int = 0
    over: int = 0
    recovered: dict[str, float] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    skipped: str = ""
    broken: str = ""

    def __str__(self) -> str:
        kinds = (f"{kind} {self.recovered[kind]:.1f}" if kind in self.recovered else f"{kind} NOT" for kind in KINDS)
        said = f"{self.fault.name} for {(self.over - self.begin) / NS:.1f} s, recovered after: {', '.join(kinds)}"
        said += f"; stuck: {len(self.stuck)}" if self.stuck else ""
        return f"{said}; BROKEN: {self.broken}" if self.broken else said

    @property
    def has_not_recovered(self) -> list[str]:
        """The kinds of work of which nothing that was called after the fault has ended in a minute."""
        return [] if self.skipped or self.broken else [kind for kind in KINDS if kind not in self.recovered]

    @property
    def recovery_seconds(self) -> float:
        return max(self.recovered.get(kind, MAX_RECOVERY_SECONDS) for kind in KINDS)


class Watch:
    """What the histories say so far: `waiting` has when what has not ended was acknowledged, by call."""

    def __init__(self, folder: Path) -> None:
        self._tail = Tail(folder)
        self._early: list[Event] = []
        self._invoked: dict[str, Event] = {}
        self._ended: set[str] = set()
        self._ends: dict[str, list[tuple[int, int]]] = defaultdict(list)  # when made, and when ended, by kind
        self.waiting: dict[str, int] = {}

    def look(self) -> None:
        """Read on. That a call has ended may be read before what its caller wrote of it."""
        events = [*self._early, *sorted(self._tail.events(), key=lambda event: event["at"])]
        self._early = []
        for event in events:
            call, at = event.get("call", ""), event["at"]
            match event["what"]:
                case "invoked":
                    self._invoked[call] = event
                case "begun" if event.get("kind") == "periodic":
                    self._ends["periodic"].append((at, at))
                case "acknowledged" if call not in self._ended:
                    self.waiting.setdefault(call, at)
                case "ended" if call not in self._invoked:
                    self._early.append(event)
                case "ended":
                    made = self._invoked[call]
                    self._ends[made["kind"]].append((made["at"], at))
                    self._ended.add(call)
                    self.waiting.pop(call, None)

    def first_end(self, kind: str, since: int) -> int | None:
        """When the first call of this kind ended that was made since then."""
        found = None
        for made, ended in reversed(self._ends[kind]):
            if ended < since:
                break
            if made > since:
                found = min(found or ended, ended)
        return found

    def give_up(self, calls: Iterable[str]) -> None:
        """Wait no more for these."""
        for call in calls:
            self.waiting.pop(call, None)

    def waiting_since_before(self, moment: int) -> list[str]:
        """What was acknowledged before that moment, and has not ended."""
        return [call for call, at in self.waiting.items() if at < moment]


class Schedule:
    """Which fault comes next: one that has been injected least often into this system, and into all of them."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self.seed, self._faults, self._random = seed, faults, random.Random(seed)
        self._injected: Counter[tuple[str, str]] = Counter()
        self._left_out: set[tuple[str, str]] = set()

    def next_on(self, system: str) -> Fault | None:
        fitting = [it for it in self._faults if system in it.systems and (system, it.name) not in self._left_out]
        self._random.shuffle(fitting)
        chosen = min(fitting, key=lambda it: self._counts(system, it.name), default=None)
        if chosen is not None:
            self._injected[system, chosen.name] += 1
        return chosen

    def leave_out(self, system: str, fault: Fault) -> None:
        self._left_out.add((system, fault.name))

    def _counts(self, system: str, fault: str) -> tuple[int, int]:
        overall = sum(count for (_, name), count in self._injected.items() if name == fault)
        return self._injected[system, fault], overall


@dataclass
class Result:
    """What a run on one system came to."""

    system: str
    seed: int
    injections: list[Injection]
    verdict: checker.Verdict
    left: list[str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        shown = [{**asdict(it), "fault": it.fault.name} for it in self.injections]
        return {
            "system": self.system,
            "seed": self.seed,
            "seconds": self.seconds,
            "left_running": self.left,
            "injections": shown,
            "findings": [asdict(finding) for finding in self.verdict.findings],
            "acknowledged": self.verdict.acknowledged,
        }


class Run:
    """Injects faults into a system that runs."""

    def __init__(self, ground: Ground, say: Any, stuck_seconds: float = STUCK_SECONDS) -> None:
        self.ground, self.say, self.stuck_seconds = ground, say, stuck_seconds
        self.watch = Watch(ground.folder / "history")
        self.injections: list[Injection] = []

    def inject_all(self, seconds: float, schedule: Schedule) -> None:
        """For so many seconds, and at least one."""
        self._wait_until_recovered(now(), {}, 120)
        end = time.monotonic() + seconds
        while not self.injections or time.monotonic() < end:
            fault = schedule.next_on(self.ground.name)
            if fault is None:
                return
            injection = Injection(fault)
            self.injections.append(injection)
            self._inject(injection)
            if injection.skipped:
                schedule.leave_out(self.ground.name, fault)

    def _inject(self, it: Injection) -> None:
        it.begin = now()
        try:
            self._inject_once(it.fault)
        except Skipped as skipped:
            it.skipped = str(skipped)
            return
        except Exception as error:
            it.broken = f"{type(error).__name__}: {error}"
        it.over = now()
        self.ground.history.write(
            "fault",
            name=it.fault.name,
            begin=it.begin,
            over=it.over,
            may_begin_again=it.fault.may_begin_again,
            forgets=it.fault.forgets,
        )
        self._wait_until_recovered(it.over, it.recovered, MAX_RECOVERY_SECONDS, it)
        self.say(f"{self.ground.name}: {it}")
        if "periodic" not in it.recovered:
            self.ground.ask("observe.restart_ticks()")  # so that the next fault is not blamed

    def _inject_once(self, fault: Fault, attempts: int = 5) -> None:
        """Processes come and go: one that has just ended cannot be killed."""
        try:
            fault.inject(self.ground)
        except psutil.Error:
            if attempts == 1:
                raise
            time.sleep(0.5)
            self._inject_once(fault, attempts - 1)

    def _wait_until_recovered(
        self, over: int, recovered: dict[str, float], seconds: float, it: Injection | None = None
    ) -> None:
        """Until work of each kind that was called since `over` has ended, and so has what had been called before."""
        deadline = time.monotonic() + seconds
        looked_for_stuck = False
        while time.monotonic() < deadline:
            time.sleep(0.1)
            self.watch.look()
            for kind in KINDS:
                if kind not in recovered and (end := self.watch.first_end(kind, over)) is not None:
                    recovered[kind] = (end - over) / NS
            waiting = self.watch.waiting_since_before(over)
            is_late = now() > over + self.stuck_seconds * NS
            if it and it.fault.forgets and is_late:
                self.watch.give_up(waiting)  # the database may not know of them any more: the checker judges that
                waiting = []
            if it and not looked_for_stuck and is_late:
                it.stuck, looked_for_stuck = waiting, True
            if len(recovered) == len(KINDS) and not waiting:
                return

    def drain(self, seconds: float) -> None:
        """Stop the load, and wait until everything has ended, or nothing more does for so many seconds."""
        self.ground.fleet.stop("load", "beat")
        deadline, last = time.monotonic() + seconds, -1
        while time.monotonic() < deadline:
            self.watch.look()
            left = len(self.watch.waiting) or self.ground.ask("observe.calls_left()")
            if not left:
                return
            if left != last:
                last, deadline = left, time.monotonic() + seconds
            time.sleep(0.3)


def run_on(
    name: str,
    folder: Path,
    schedule: Schedule,
    seconds: float,
    say: Any,
    *,
    drain_seconds: float = DRAIN_SECONDS,
    stuck_seconds: float = STUCK_SECONDS,
    **environment: str,
) -> Result:
    """Start the system, inject the faults for so many seconds, and judge what came of it."""
    started = time.monotonic()
    with ExitStack() as stack:
        ground = stack.enter_context(running(name, folder, schedule.seed, **environment))
        say(f"{name}: everything runs after {time.monotonic() - started:.0f} s")
        run = Run(ground, say, stuck_seconds)
        run.inject_all(seconds, schedule)
        return judged(run, schedule.seed, started, drain_seconds)


def judged(run: Run, seed: int, started: float, drain_seconds: float = DRAIN_SECONDS) -> Result:
    """Bring the run to its end, and judge what came of it."""
    ground = run.ground
    run.drain(drain_seconds)
    ground.fleet.stop()
    wait_or_not(lambda: not left_running(ground), 10)
    left = [" ".join(process.cmdline()) for process in left_running(ground)]
    dump = ground.folder / "database.json"
    ground.ask(f"observe.dump({str(dump)!r})")
    verdict = checker.judge(ground.folder / "history", dump)
    return Result(ground.name, seed, run.injections, verdict, left, time.monotonic() - started)


def wait_or_not(condition: Any, seconds: float) -> None:
    try:
        wait_for(condition, "", seconds)
    except AssertionError:
        return
