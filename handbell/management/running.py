"""The system that runs from this folder: one `up` at a time, and where it can be reached."""

import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from handbell.common.private_files import make_private_folder
from handbell.common.process_id import machine_id
from handbell.conf import conf


@dataclass
class RunningSystem:
    """What `up` says of itself: its process, its addresses, and whether every part has answered."""

    pid: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=machine_id)
    host: str = field(default_factory=socket.gethostname)
    web: str | None = None
    flower: str | None = None
    workers: int = 0
    ready: bool = False

    @property
    def is_on_this_machine(self) -> bool:
        """Whether its pid means something here: two containers, or machines, may share the folder."""
        return self.machine == machine_id()


class UpLock:
    """Held by `up` while it runs; the kernel releases it when the process dies, for whatever reason."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or conf.DATA_DIR / "up.json"
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Whether no other `up` runs; from then on this one does."""
        make_private_folder(self.path.parent)
        file = self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def write(self, running: RunningSystem) -> None:
        assert self._file is not None, "acquire() comes first"
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(asdict(running)))
        self._file.flush()

    def release(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.close()
            self._file = None


def running_system(path: Path | None = None) -> RunningSystem | None:
    """The system that runs from this folder now, or None."""
    lock = UpLock(path)
    if lock.acquire():
        lock.release()
        return None
    try:
        return RunningSystem(**json.loads(lock.path.read_text()))
    except ValueError:
        return RunningSystem(pid=0)  # it is just starting, or just ending
