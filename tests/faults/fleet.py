"""The processes of a system, kept running as systemd or Kubernetes would: one that ends is started again."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.servers import wait_for
from tests.system import System

RESTART_SECONDS = 1.0
READY_SECONDS = 120.0  # on a machine that does other things, too


@dataclass
class Member:
    """A process of the fleet: its name, its command, the words in its output that say that it is ready.

    `environment` is what it has more than its system. Once it has ended, it stays so if it `is_held`, or until
    `absent_until` by the monotonic clock.
    """

    name: str
    command: Sequence[str]
    ready: str
    environment: dict[str, str] = field(default_factory=dict)
    is_held: bool = False
    absent_until: float = 0.0
    starts: int = 0
    popen: "subprocess.Popen[bytes] | None" = None
    log: Path = Path()
    ended_at: float | None = None

    @property
    def process(self) -> psutil.Process:
        assert self.popen is not None
        return psutil.Process(self.popen.pid)

    @property
    def is_alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    @property
    def is_ready(self) -> bool:
        return self.is_alive and self.ready in self.output()

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


class Fleet:
    """Starts the members and keeps them running. A member's output goes to a new file at each start."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system, self.folder = system, folder
        self.members: dict[str, Member] = {}
        self._stopped = threading.Event()
        self._lock = threading.RLock()
        self._keeper = threading.Thread(target=self._keep, name="fleet", daemon=True)

    def add(self, *members: Member) -> None:
        for member in members:
            self.members[member.name] = member
            self._start(member)
        if not self._keeper.is_alive():
            self._keeper.start()

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def named(self, *prefixes: str) -> list[Member]:
        """The members whose names begin like one of these: `worker`, `beat`, `load`."""
        return [member for name, member in self.members.items() if name.startswith(prefixes)]

    def wait_until_ready(self, names: Iterable[str] | None = None) -> None:
        for name in self.members if names is None else names:
            member = self.members[name]
            wait_for(lambda m=member: m.is_ready, f"{name} is ready: {member.log}", READY_SECONDS)  # type: ignore[misc]

    def restart(self, member: Member, **environment: str) -> None:
        """Stop a member politely, and start it again with this added to its environment."""
        with self._lock:
            member.environment = environment
            self.stop_member(member)
            self._start(member)

    def stop_member(self, member: Member, seconds: float = 30) -> None:
        if member.popen is None:
            return
        member.popen.terminate()
        try:
            member.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(member.process)
            member.popen.wait()

    def stop(self, *prefixes: str) -> None:
        """Stop the members with these names, or all, for good."""
        members = self.named(*prefixes) if prefixes else list(self.members.values())
        with self._lock:
            for member in members:
                member.is_held = True
        for member in members:
            if member.is_alive and member.popen is not None:
                member.popen.terminate()
        for member in members:
            self.stop_member(member)
        if not prefixes:
            self._stopped.set()

    def _start(self, member: Member) -> None:
        member.starts += 1
        member.log = self.folder / f"{member.name}-{member.starts}.log"
        with member.log.open("w") as output:
            member.popen = subprocess.Popen(
                member.command,
                env={**self.system.env, "PYTHONUNBUFFERED": "1", **member.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _keep(self) -> None:
        while not self._stopped.wait(0.1):
            for member in list(self.members.values()):
                with self._lock:
                    if member.is_alive or member.is_held or time.monotonic() < member.absent_until:
                        member.ended_at = None
                    elif member.ended_at is None:
                        member.ended_at = time.monotonic()
                    elif time.monotonic() > member.ended_at + RESTART_SECONDS:
                        self._start(member)


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def kill_group(process: psutil.Process) -> None:
    """With all that it has started, also in sessions of their own."""
    members = process.children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    kill(*members)


def freeze(processes: Iterable[psutil.Process], seconds: float) -> None:
    """SIGSTOP, and SIGCONT after `seconds`."""
    stopped = []
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
            stopped.append(process)
    time.sleep(seconds)
    for process in stopped:
        with suppress(psutil.Error):
            process.resume()
