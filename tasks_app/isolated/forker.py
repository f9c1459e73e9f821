"""The forker: a small warm process that forks a process per launch, and sees each of them to its end.

Django and all tasks are loaded here, once; there is no connection to the database or the broker that a child could
inherit. It is told over a socket what to start, and tells over it what came of that. Deadlines and limits are its own
business: they are met whatever the supervisor does meanwhile. When the supervisor goes, so does everything here.
"""

import ctypes
import faulthandler
import gc
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module

from celery import current_app
from django.conf import settings
from django.db import connections

from tasks_app.children import adopt_orphans
from tasks_app.isolated import endings, processes
from tasks_app.isolated.child import Surroundings, become
from tasks_app.isolated.life import Cause, Life, Phase
from tasks_app.isolated.messages import Channel, Ending, Order
from tasks_app.isolated.processes import MARK, Process

FORK_SECONDS = 0.015  # a fork is begun no later than this after the deadlines were looked at
AGAIN_SECONDS = 0.01  # between two attempts to kill the same launch
LONGEST_SLEEP = 0.5
EXEC_SECONDS = 0.3  # a process without any environment may be becoming another program, and show its mark then
SHORTEST_ROUND, EFFORT = 0.1, 0.1  # between two rounds over all launches, which take up to a tenth of the time
ANNOUNCE_SECONDS = 0.1  # a launch that is over sooner never says where it runs


class Forker:
    """`channel` leads to the supervisor; `around` is what each child is told."""

    def __init__(self, channel: Channel, around: Surroundings) -> None:
        self.channel, self.around = channel, around
        self.orders: deque[Order] = deque()
        self.lives: dict[int, Life] = {}  # by launch
        self.roots: dict[int, Life] = {}  # by the number of the launch's own process, until that is reaped
        self.belongs: dict[Process, int] = {}  # to which launch, of everybody seen among somebody's descendants
        self.bare: dict[Process, float] = {}  # orphans without any environment, and since when
        self.selector = selectors.DefaultSelector()
        self.selector.register(channel.socket, selectors.EVENT_READ)
        self.next_round = 0.0
        self._wake_on_signals()

    def run(self) -> None:
        """Work until the supervisor goes; then end everything."""
        self.channel.send("ready", None)
        while not self.channel.closed:
            self._step()
        with suppress(KeyError):
            self.selector.unregister(self.channel.socket)
        self.orders.clear()
        for life in self.lives.values():
            life.end(None, time.monotonic())
        while self.lives:
            self._step()

    def _step(self) -> None:
        for key, _ in self.selector.select(self._until_something_is_due()):
            if key.data is not None:
                life, number = key.data
                life.read(self.selector, number)
        self._listen()
        self._reap()
        self._look()
        began = time.monotonic()
        while self.orders and time.monotonic() - began < FORK_SECONDS:
            self._start(self.orders.popleft())
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.channel.flush() else 0)
        if not self.channel.closed:
            self.selector.modify(self.channel.socket, events)

    def _until_something_is_due(self) -> float:
        if self.orders:
            return 0.0
        due = min((life.due for life in self.lives.values()), default=float("inf"))
        if self.lives:
            due = min(due, self.next_round)
        return max(0.0, min(due - time.monotonic(), LONGEST_SLEEP))

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._awake, 4096)
        if self.channel.closed:
            return  # whatever it still had to say
        for kind, content in self.channel.receive():
            if kind == "start":
                self.orders += (Order(*order) for order in content)
            else:
                self._end(Cause(kind), set(content))

    def _end(self, cause: Cause, launches: set[int]) -> None:
        for order in [order for order in self.orders if order.id in launches]:
            self.orders.remove(order)
            self._did_not_start(order, endings.not_started(cause is Cause.CANCELLED))
        ours = [self.lives[launch] for launch in launches & self.lives.keys()]
        self._survey(ours)
        for life in ours:
            life.end(cause, time.monotonic())

    # --- Beginning -----------------------------------------------------------------------------------------------

    def _start(self, order: Order) -> None:
        pipes: list[int] = []
        try:
            for _ in range(3):
                pipes += os.pipe()
            pid = os.fork()
        except OSError as error:
            for pipe in pipes:
                os.close(pipe)
            self._did_not_start(order, endings.could_not_start(error))
            return
        read, write = (pipes[0], pipes[2], pipes[4]), (pipes[1], pipes[3], pipes[5])
        if pid == 0:
            become(order, *write, self.around)
        for pipe in write:
            os.close(pipe)
        life = Life(order, pid, read, settings.LAUNCH_OUTPUT_KB * 1024)
        life.listen(self.selector)
        self.lives[order.id] = self.roots[pid] = life

    def _did_not_start(self, order: Order, verdict: endings.Verdict) -> None:
        now = time.time()
        status, reason, result, _, _ = verdict
        self.channel.send("ended", Ending(order.id, status, reason, result, None, "", "", None, None, now, now))

    # --- Ending --------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Take note of every child that has died: launches, and orphans that came to us."""
        now = time.monotonic()
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                life = self.roots.pop(pid, None)
                if life is not None:
                    life.exited(status, now)

    def _look(self) -> None:
        """End what is due, and all that is left of what has ended."""
        now = time.monotonic()
        due = [life for life in self.lives.values() if life.due <= now]
        whole_round = now >= self.next_round
        self._survey(self.lives.values() if whole_round else due)
        self._reap()  # whoever was seen dead
        for life in due:
            if life.is_over(now) and life.phase is Phase.DYING:
                self._finish(life)
            elif life.phase is Phase.RUNNING:
                life.end(Cause.DEADLINE, now)
            else:
                life.press(now)
                life.due = now + AGAIN_SECONDS
        if whole_round:
            self._weigh()
            self._announce()
            self.next_round = now + max(SHORTEST_ROUND, (time.monotonic() - now) / EFFORT)

    def _finish(self, life: Life) -> None:
        life.close(self.selector)
        del self.lives[life.order.id]
        self.roots.pop(life.pid, None)
        for process in life.known:
            self.belongs.pop(process, None)
        self.channel.send("ended", life.ending())

    def _survey(self, lives: Iterable[Life]) -> None:
        """See who belongs to these launches now. Who belongs to none although it descends from one is killed."""
        adopted: dict[int, set[Process]] = {}
        now = time.monotonic()
        self.bare = {process: since for process, since in self.bare.items() if now - since < 2 * LONGEST_SLEEP}
        for pid in processes.children(os.getpid()):
            if pid not in self.roots:
                self._adopt(pid, adopted)
        for life in lives:
            below = processes.descendants(life.pid) if life.exit_status is None else []
            seen = [stat.process for stat in map(processes.look, below) if stat and stat.state != "Z"]
            known = {*seen, *adopted.get(life.order.id, ())}
            for process in life.known - known:
                self.belongs.pop(process, None)
            for process in known - life.known:
                self.belongs[process] = life.order.id
            life.known = known

    def _adopt(self, pid: int, adopted: dict[int, set[Process]]) -> None:
        """Find out whose orphan it is, with all its descendants."""
        seen = processes.look(pid)
        if seen is None or seen.state == "Z":
            return
        launch = self._whose(seen)
        if launch is None and not self.channel.closed:
            now = time.monotonic()
            if now - self.bare.setdefault(seen.process, now) < EXEC_SECONDS:
                return
        if launch is None or launch not in self.lives:  # it has thrown away its mark, or its launch is over
            processes.send(signal.SIGKILL, seen.process)
            return
        below = (processes.look(child) for child in processes.descendants(pid))
        family = adopted.setdefault(launch, set())
        family |= {seen.process, *(stat.process for stat in below if stat and stat.state != "Z")}

    def _whose(self, seen: processes.Stat) -> int | None:
        """The launch it belongs to, 0 if there is none; None if its environment is empty, perhaps for a moment."""
        if seen.process in self.belongs:
            return self.belongs[seen.process]
        if seen.session in self.roots:
            return self.roots[seen.session].order.id
        environment = processes.environment(seen.process.pid)
        if not environment:
            return None
        name, _, launch = processes.mark_in(environment).partition(":")
        return int(launch) if name == self.around.mark and launch.strip().isdecimal() else 0

    # --- Watching ------------------------------------------------------------------------------------------------

    def _weigh(self) -> None:
        """End launches that use more memory than they may, together with all they have started."""
        for life in self.lives.values():
            if life.phase is not Phase.RUNNING:
                continue
            pids = [life.pid, *(process.pid for process in life.known)]
            if sum(map(processes.resident_mb, pids)) <= life.order.memory_mb:
                continue
            life.used_mb = sum(map(processes.own_share_mb, pids))  # exact, and takes a while
            if life.used_mb > life.order.memory_mb:
                life.end(Cause.MEMORY, time.monotonic())

    def _announce(self) -> None:
        since = time.monotonic() - ANNOUNCE_SECONDS
        new = [life for life in self.lives.values() if not life.announced and life.began <= since]
        if new:
            self.channel.send("began", [(life.order.id, life.pid, life.began_at) for life in new])
        for life in new:
            life.announced = True

    def _wake_on_signals(self) -> None:
        self._awake, waker = os.pipe()
        os.set_blocking(self._awake, False)
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self.selector.register(self._awake, selectors.EVENT_READ)


def surroundings() -> Surroundings:
    """What is to be known about this process before it has children."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    with open("/proc/self/status") as file:  # noqa: PTH123
        data = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
    name = os.environ[MARK].partition(":")[0]
    return Surroundings(os.getpid(), before, data, name, _mark_address())


def _mark_address() -> int | None:
    """Where the mark stands in the memory that the kernel shows as the environment; a child writes its own there, and
    all that it forks inherit it.
    """
    with open("/proc/self/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    begin, end = int(fields[47]), int(fields[48])
    entry = f"{MARK}={os.environ[MARK]}".encode()
    place = ctypes.string_at(begin, end - begin).find(entry + b"\0")
    return begin + place + len(MARK) + 1 if place >= 0 else None


def load(modules: list[str]) -> None:
    """Everything that a launch may need, so that no child has to."""
    current_app.loader.import_default_modules()
    for module in modules:
        import_module(module)
    current_app.finalize()
    opened = [connection.alias for connection in connections.all(initialized_only=True) if connection.connection]
    if opened:
        raise RuntimeError(
            f"A module of tasks has opened a connection to the database {opened[0]!r} when it was imported, and every "
            "launch would inherit it. Query inside the task."
        )


def main() -> None:
    """The program that `warm` starts: its arguments are a socket's descriptor and the modules to load."""
    adopt_orphans()
    load(sys.argv[2:])
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    forker = Forker(channel, surroundings())
    gc.collect()
    gc.freeze()  # so that a child's collector does not touch, and so copy, what it shares with us
    gc.disable()
    forker.run()
