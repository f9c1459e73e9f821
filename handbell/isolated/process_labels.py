"""Labels of processes: to which launch a process belongs, whatever it has done to hide it.

A process may leave its group and its session and lose its parents; three things still tell to which launch it belongs.
Orphans come to the fork server, which is their subreaper. What a launch starts carries the launch's label in its
environment, as the kernel shows it. And whatever was seen once among a launch's descendants is remembered.
"""

from typing import NamedTuple

from handbell.common.procfs import environment_of

LABEL_VARIABLE = "HANDBELL_LAUNCH_ID"
LAUNCH_NUMBER_WIDTH = 20  # a label always has the same length, so that a child can write its own over it


class ProcessLabel(NamedTuple):
    """What a process carries in its environment: the name of its fork server, and the number of its launch. The fork
    server itself has no launch.
    """

    server: str
    launch: int | None

    def text(self) -> str:
        """The value of the environment variable."""
        return f"{self.server}:{'' if self.launch is None else self.launch:<{LAUNCH_NUMBER_WIDTH}}"


def label_of(pid: int) -> ProcessLabel | None:
    """The label in its environment, if it has one."""
    return label_in(environment_of(pid))


def label_in(environment: bytes) -> ProcessLabel | None:
    """The label in an environment as the kernel shows it, if there is one."""
    for entry in environment.split(b"\0"):
        if entry.startswith(LABEL_VARIABLE.encode() + b"="):
            text = entry.decode(errors="replace").partition("=")[2]
            server, _, launch = text.partition(":")
            launch = launch.strip()
            return ProcessLabel(server, int(launch) if launch.isdecimal() else None) if server else None
    return None
