"""Histories: what callers, tasks and the harness saw and did, outside of the system that is judged by them.

Each process appends lines of JSON to a file of its own. A line says `what` happened and when: `at`, in nanoseconds of
the clock that all processes of a machine share, whatever their wall clocks say.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "FAULTS_HISTORY"  # where the processes of a system write
Event = dict[str, Any]


def now() -> int:
    return time.monotonic_ns()


class History:
    """Appends what this process sees; also after a fork, in the child's own file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file, self._pid = -1, 0

    def write(self, what: str, at: int | None = None, **fields: Any) -> None:
        pid = os.getpid()
        if self._pid != pid:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self.folder / f"{pid}.jsonl", flags, 0o666)
            self._pid = pid
        line = json.dumps({"what": what, "at": now() if at is None else at, "pid": pid, **fields})
        os.write(self._file, line.encode() + b"\n")  # one call: a process that is killed leaves no half of a line


def own_history() -> History:
    """That of a process of the system."""
    return History(Path(os.environ[FOLDER_VARIABLE]))


class Tail:
    """Reads what has been added to the histories in a folder since it was last asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, int] = {}

    def events(self) -> Iterator[Event]:
        for path in self.folder.glob("*.jsonl"):
            offset = self._read.get(path, 0)
            if path.stat().st_size == offset:
                continue
            with path.open("rb") as file:
                file.seek(offset)
                text = file.read()
            complete = text[: text.rfind(b"\n") + 1]
            self._read[path] = offset + len(complete)
            yield from map(json.loads, complete.splitlines())
