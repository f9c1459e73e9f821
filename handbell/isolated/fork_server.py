"""The fork server: a small process that forks a process per launch, and sees each of them to its end.

Django and all tasks are loaded here, once, so that a launch begins within milliseconds; there is no connection to the
database or the broker that a child could inherit. It is told over a socket what to start, and answers with what came
of that. Deadlines and limits are its own business: they are met whatever the supervisor does meanwhile. When the
supervisor ends, so does everything here.
"""

import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from handbell.common import procfs
from handbell.common.procfs import ProcessIdentity
from handbell.conf import conf
from handbell.isolated import cgroups, outcomes
from handbell.isolated.cgroups import MAX_LAUNCH_PROCESSES, LaunchGroups, pids_in
from handbell.isolated.child import ServerContext, run_launch
from handbell.isolated.process_labels import label_in
from handbell.isolated.process_tree import EndCause, Phase, ProcessTree
from handbell.isolated.protocol import Channel, LaunchOrder, LaunchReport

MAX_FORKING_SECONDS = 0.015  # then deadlines are looked at again, however many launches are still to be started
KILL_INTERVAL_SECONDS = 0.01  # between two attempts to kill the same launch
MAX_SLEEP_SECONDS = 0.5
EXEC_SECONDS = 0.3  # a process without any environment may be becoming another program, and show its label then
MIN_SURVEY_INTERVAL_SECONDS, MAX_SURVEY_INTERVAL_SECONDS = 0.1, 2.0  # between two looks at all of all launches
MAX_SURVEY_SHARE = 0.1  # of the time, spent on these looks
REPORT_START_SECONDS = 0.1  # the supervisor is not told where a launch runs that is over sooner
MARK_BYTES = 16
NO_LAUNCH = 0  # their numbers begin at 1


class ForkServer:
    """`channel` leads to the supervisor; `context` is what each child is given, and `groups` where its control group is
    made.
    """

    def __init__(self, channel: Channel, context: ServerContext, groups: LaunchGroups) -> None:
        self.channel, self.context, self.groups = channel, context, groups
        self.orders: deque[LaunchOrder] = deque()
        self.trees: dict[int, ProcessTree] = {}  # by launch
        self.tree_of_pid: dict[int, ProcessTree] = {}  # by the pid of the launch's own process, until that is reaped
        self.launch_of: dict[ProcessIdentity, int] = {}  # of every process seen among the descendants of a launch
        self.empty_since: dict[ProcessIdentity, float] = {}  # orphans without any environment
        self.has_unknown_orphans = False  # some of them may still show a label
        self.selector = selectors.DefaultSelector()
        self.selector.register(channel.socket, selectors.EVENT_READ)
        self.next_survey = 0.0
        self._wake_on_signals()

    def run(self) -> None:
        """Work until the supervisor ends; then end everything."""
        self.channel.send("ready", None)
        while not self.channel.closed:
            self._step()
        with suppress(KeyError):
            self.selector.unregister(self.channel.socket)
        self.orders.clear()
        for tree in self.trees.values():
            tree.end(None, time.monotonic())
        while self.trees:
            self._step()
        self.groups.remove()

    def _step(self) -> None:
        for key, _ in self.selector.select(self._seconds_until_due()):
            if key.data is not None:
                tree, index = key.data
                tree.read_pipe(self.selector, index)
        self._receive()
        self._reap()
        self._handle_due()
        began = time.monotonic()
        while self.orders and time.monotonic() - began < MAX_FORKING_SECONDS:
            self._start(self.orders.popleft())
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.channel.flush() else 0)
        if not self.channel.closed:
            self.selector.modify(self.channel.socket, events)

    def _seconds_until_due(self) -> float:
        if self.orders:
            return 0.0
        due = min((tree.due for tree in self.trees.values()), default=float("inf"))
        if self.trees:
            due = min(due, self.next_survey)
        return max(0.0, min(due - time.monotonic(), MAX_SLEEP_SECONDS))

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wakeup_pipe, 4096)
        if self.channel.closed:
            return  # whatever the supervisor had still said
        for kind, content in self.channel.receive():
            if kind == "start":
                self.orders += (LaunchOrder(*order) for order in content)
            else:
                self._end(EndCause(kind), set(content))

    def _end(self, cause: EndCause, launches: set[int]) -> None:
        for order in [order for order in self.orders if order.id in launches]:
            self.orders.remove(order)
            self._report_unstarted(order, outcomes.not_started(was_cancelled=cause is EndCause.CANCELLED))
        trees = [self.trees[launch] for launch in launches & self.trees.keys()]
        self._find_members(trees)
        for tree in trees:
            tree.end(cause, time.monotonic())

    # --- Beginning -----------------------------------------------------------------------------------------------

    def _start(self, order: LaunchOrder) -> None:
        pipes: list[int] = []
        try:
            for _ in range(3):
                pipes += os.pipe()
            mark, group = os.urandom(MARK_BYTES), self.groups.make(order.id, order.memory_mb)
            pid = os.fork()
        except OSError as error:
            for pipe in pipes:
                os.close(pipe)
            self._report_unstarted(order, outcomes.could_not_start(error))
            return
        read, write = (pipes[0], pipes[2], pipes[4]), (pipes[1], pipes[3], pipes[5])
        if pid == 0:
            run_launch(order, write, mark, self.context._replace(group=group))
        for pipe in write:
            os.close(pipe)
        tree = ProcessTree(order, pid, read, conf.LAUNCH_OUTPUT_KB * 1024, mark, group)
        tree.register_pipes(self.selector)
        self.trees[order.id] = self.tree_of_pid[pid] = tree

    def _report_unstarted(self, order: LaunchOrder, outcome: outcomes.LaunchOutcome) -> None:
        now = time.time()
        report = LaunchReport(
            order.id, outcome.status, outcome.reason, outcome.result, None, "", "", None, None, now, now
        )
        self.channel.send("ended", report)

    # --- Ending --------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Reap every child that has died: launches, and orphans that came to this process."""
        now = time.monotonic()
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                tree = self.tree_of_pid.pop(pid, None)
                if tree is not None:
                    tree.note_exit(status, now)

    def _handle_due(self) -> None:
        """End launches whose time is over, and what is left of those that have ended; check all from time to time."""
        now, cpu_seconds = time.monotonic(), time.process_time()
        due = [tree for tree in self.trees.values() if tree.due <= now]
        is_survey_due = now >= self.next_survey
        self._find_members(self.trees.values() if is_survey_due else due)
        self._reap()  # what was seen dead
        for tree in due:
            if tree.phase is Phase.KILLING and self._is_gone(tree, now):
                self._finish(tree)
            elif tree.phase is Phase.RUNNING:
                tree.end(EndCause.DEADLINE, now)
            else:
                tree.kill_rest(now)
                tree.due = now + KILL_INTERVAL_SECONDS
        if is_survey_due:
            self._check_limits()
            self._report_starts()
            # On a machine that is busy with others, what takes little work may take long.
            pause = (time.process_time() - cpu_seconds) / MAX_SURVEY_SHARE
            pause = min(max(MIN_SURVEY_INTERVAL_SECONDS, pause), MAX_SURVEY_INTERVAL_SECONDS)
            self.next_survey = now + pause

    def _is_gone(self, tree: ProcessTree, now: float) -> bool:
        """Whether nothing is left of a launch, not even a program that was just started and has no label yet."""
        may_have_orphans = self.has_unknown_orphans and now - tree.killing_since < EXEC_SECONDS
        return tree.is_gone(now) and not may_have_orphans

    def _finish(self, tree: ProcessTree) -> None:
        tree.close_pipes(self.selector)
        del self.trees[tree.order.id]
        self.tree_of_pid.pop(tree.pid, None)
        for process in tree.members:
            self.launch_of.pop(process, None)
        self.channel.send("ended", tree.report())
        if tree.group is not None:
            cgroups.remove(tree.group)

    def _find_members(self, trees: Iterable[ProcessTree]) -> None:
        """Find the processes of these launches as they are now. Orphans that belong to no launch are killed."""
        orphans: dict[int, set[ProcessIdentity]] = {}
        now = time.monotonic()
        self.has_unknown_orphans = False
        self.empty_since = {
            process: since for process, since in self.empty_since.items() if now - since < 2 * MAX_SLEEP_SECONDS
        }
        for pid in procfs.children_of(os.getpid()):
            if pid not in self.tree_of_pid:
                self._assign_orphan(pid, orphans)
        for tree in trees:
            descendants = procfs.descendants_of(tree.pid) if tree.exit_status is None else []
            grouped = [pid for pid in pids_in(tree.group) if pid != tree.pid] if tree.group else []
            members = procfs.living_processes([*descendants, *grouped]) | orphans.get(tree.order.id, set())
            for process in tree.members - members:
                self.launch_of.pop(process, None)
            for process in members - tree.members:
                self.launch_of[process] = tree.order.id
            tree.members = members

    def _assign_orphan(self, pid: int, orphans: dict[int, set[ProcessIdentity]]) -> None:
        """Add an orphan and its descendants to the launch that it belongs to; kill it if it belongs to none."""
        stat = procfs.process_stat(pid)
        if stat is None or stat.is_zombie:
            return
        launch = self._launch_of_orphan(stat)
        if launch is None and not self.channel.closed:
            now = time.monotonic()
            if now - self.empty_since.setdefault(stat.process, now) < EXEC_SECONDS:
                self.has_unknown_orphans = True
                return
        if launch is None or launch not in self.trees:  # it has thrown away its label, or its launch is over
            procfs.signal_process(signal.SIGKILL, stat.process)
            return
        orphans.setdefault(launch, set()).update({stat.process}, procfs.living_processes(procfs.descendants_of(pid)))

    def _launch_of_orphan(self, stat: procfs.ProcessStat) -> int | None:
        """The launch it belongs to, or NO_LAUNCH; None if its environment is empty, perhaps only for a moment."""
        if stat.process in self.launch_of:
            return self.launch_of[stat.process]
        if stat.session in self.tree_of_pid:
            return self.tree_of_pid[stat.session].order.id
        environment = procfs.environment_of(stat.process.pid)
        if not environment:
            return None
        label = label_in(environment)
        return (label.launch if label and label.server == self.context.name else None) or NO_LAUNCH

    # --- Watching ------------------------------------------------------------------------------------------------

    def _check_limits(self) -> None:
        """End launches that use more memory than they may, or have more processes, each together with all that it has
        started.
        """
        for tree in self.trees.values():
            if tree.phase is not Phase.RUNNING:
                continue
            pids = [tree.pid, *(process.pid for process in tree.members)]
            if len(pids) > MAX_LAUNCH_PROCESSES:
                tree.process_count = len(pids)
                tree.end(EndCause.PROCESSES, time.monotonic())
                continue
            if sum(map(procfs.resident_mb, pids)) <= tree.order.memory_mb:
                continue
            tree.used_mb = sum(map(procfs.proportional_mb, pids))  # exact, and takes a while
            if tree.used_mb > tree.order.memory_mb:
                tree.end(EndCause.MEMORY, time.monotonic())

    def _report_starts(self) -> None:
        """Say where launches run, of those that have been running for a moment."""
        since = time.monotonic() - REPORT_START_SECONDS
        new = [tree for tree in self.trees.values() if not tree.start_reported and tree.started <= since]
        if new:
            self.channel.send("started", [(tree.order.id, tree.pid, tree.started_at) for tree in new])
        for tree in new:
            tree.start_reported = True

    def _wake_on_signals(self) -> None:
        self._wakeup_pipe, write_end = os.pipe()
        os.set_blocking(self._wakeup_pipe, False)
        os.set_blocking(write_end, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self.selector.register(self._wakeup_pipe, selectors.EVENT_READ)
