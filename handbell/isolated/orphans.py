"""Ending what a fork server left behind because it was killed: found by its label anywhere on this machine."""

import os
import signal
import time
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path

from handbell.common import procfs
from handbell.common.procfs import ProcessIdentity
from handbell.isolated import cgroups
from handbell.isolated.process_labels import ProcessLabel, label_of

MAX_PASSES = 200
PASS_SECONDS = 0.005  # between two of them
FORK_SERVER_MODULE = "handbell.isolated.fork_server_main"  # in the command line of a fork server


def end_orphans() -> int:
    """Kill every process that was started under a fork server which does not exist any more; how many were found by
    their labels.
    """
    groups = cgroups.servers_with_groups()  # first: a fork server that starts meanwhile has a label before its group
    labels = _labels()
    living = {label.server for pid, label in labels.items() if label.launch is None and _is_fork_server(pid)}
    dead = ({label.server for label in labels.values()} | groups.keys()) - living
    for server in dead & groups.keys():
        _end_group(groups[server])
    return _kill_all(lambda label: label.server in dead) if dead else 0


def end_launches(server: str, launches: Container[int]) -> int:
    """Kill every process of these launches; how many were found by their labels."""
    group = cgroups.servers_with_groups().get(server)
    for launch in group.iterdir() if group else ():
        if launch.name.isdecimal() and int(launch.name) in launches:
            cgroups.kill(launch)
    return _kill_all(lambda label: label.server == server and label.launch is not None and label.launch in launches)


def end_fork_server(server: str) -> int:
    """Kill everything that was started under this fork server; how many were found by their labels."""
    if group := cgroups.servers_with_groups().get(server):
        _end_group(group)
    return _kill_all(lambda label: label.server == server)


def _end_group(group: Path) -> None:
    for _ in range(MAX_PASSES):
        cgroups.kill(group)
        if cgroups.remove(group):
            return
        time.sleep(PASS_SECONDS)


def _kill_all(is_wanted: Callable[[ProcessLabel], bool]) -> int:
    """Kill the processes with such a label, and those that they start meanwhile, until none is left."""
    killed: set[ProcessIdentity] = set()
    for _ in range(MAX_PASSES):
        found = [pid for pid, label in _labels().items() if is_wanted(label)]
        if not found:
            break
        for pid in found:
            stat = procfs.process_stat(pid)
            # Its number may be another process's by now: what is about to be killed must have a label.
            if stat is not None and label_of(pid) is not None:
                procfs.signal_process(signal.SIGKILL, stat.process)
                killed.add(stat.process)
            with suppress(ChildProcessError):  # it may have become ours to reap, if we are a subreaper
                os.waitpid(pid, os.WNOHANG)
        time.sleep(PASS_SECONDS)
    return len(killed)


def _labels() -> dict[int, ProcessLabel]:
    """The labels of all processes that have one, by their numbers."""
    return {pid: label for pid in procfs.all_pids() if (label := label_of(pid)) is not None}


def _is_fork_server(pid: int) -> bool:
    return FORK_SERVER_MODULE in procfs.command_line(pid)
