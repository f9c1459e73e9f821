"""Control groups: everything that a launch has started, whatever it does to hide it, and how to end all of it at once.

Only where this process may make groups: Linux with cgroup v2 (https://docs.kernel.org/admin-guide/cgroup-v2.html), and
a service with `Delegate=yes` or a container with a writable /sys/fs/cgroup. Elsewhere a launch's processes are found by
their descent and their labels (`process_tree`, `process_labels`), and their memory is looked at from time to time.
"""

import os
from contextlib import suppress
from pathlib import Path

from handbell.conf import conf

MAX_LAUNCH_PROCESSES = 512  # of one launch


def own_group() -> Path | None:
    """The folder of the group that this process is in; None if there is no cgroup v2 here."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        root, mount = next((it[3], it[4]) for it in mounts if it[it.index("-") + 1] == "cgroup2")
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration, ValueError):
        return None
    return Path(mount) / path.removeprefix(root).lstrip("/")


def launch_fence() -> str:
    """By what the launches of this worker are held together, in words."""
    probe = LaunchGroups(f"probe-{os.getpid()}")
    probe.remove()
    return "a control group each" if probe.folder is not None else "descent and labels"


def name_prefix() -> str:
    """Of the names of our groups. Processes of another pid namespace cannot be seen, so neither are their groups."""
    return f"handbell-{Path('/proc/self/ns/pid').stat().st_ino}-"


class LaunchGroups:
    """The groups of a fork server's launches, in one of its own. `folder` is None where none can be made."""

    def __init__(self, server: str) -> None:
        parent = own_group() if conf.LAUNCH_CGROUPS else None
        self.folder = parent and parent / f"{name_prefix()}{server}"
        if parent is None or self.folder is None:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            (self.folder / "cgroup.kill").stat()  # since Linux 5.14
        except OSError:
            self.remove()
            self.folder = None
            return
        for group in (parent, self.folder):  # which controllers there are is up to whoever delegates the group
            for controller in ("memory", "pids"):
                with suppress(OSError):
                    (group / "cgroup.subtree_control").write_text(f"+{controller}")

    def make(self, launch: int, memory_mb: int) -> Path | None:
        """A group for this launch, with its limits where the controllers are there; None if there can be none."""
        if self.folder is None:
            return None
        group = self.folder / str(launch)
        try:
            group.mkdir()
        except OSError:
            return None
        limits = {"memory.max": memory_mb * 2**20, "memory.swap.max": 0, "memory.oom.group": 1}
        for name, limit in {**limits, "pids.max": MAX_LAUNCH_PROCESSES}.items():
            with suppress(OSError):
                (group / name).write_text(str(limit))
        return group

    def remove(self) -> None:
        if self.folder is not None:
            with suppress(OSError):
                self.folder.rmdir()


def enter(group: Path) -> None:
    """Move this process into a group; whatever it starts is born there."""
    (group / "cgroup.procs").write_text("0")


def pids_in(group: Path) -> list[int]:
    """The processes in a group."""
    try:
        return list(map(int, (group / "cgroup.procs").read_text().split()))
    except OSError:
        return []


def kill(group: Path) -> None:
    """Kill all processes in a group and in the groups below it, at once."""
    with suppress(OSError):
        (group / "cgroup.kill").write_text("1")


def was_out_of_memory(group: Path) -> bool:
    """Whether the kernel has killed one of its processes for using more than `memory.max`."""
    with suppress(OSError):
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        return int(events.get("oom_kill", 0)) > 0
    return False


def remove(group: Path) -> bool:
    """Remove an empty group, and those below it; whether it is gone."""
    try:
        for below in group.iterdir():
            if below.is_dir():
                remove(below)
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def servers_with_groups() -> dict[str, Path]:
    """The groups of fork servers that are here, by the servers' names."""
    parent = own_group()
    try:
        found = list(parent.glob(f"{name_prefix()}*")) if parent else []
    except OSError:
        return {}
    return {folder.name.removeprefix(name_prefix()): folder for folder in found}
