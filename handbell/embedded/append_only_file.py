"""Repairs the file to which the embedded broker appends every change, after a crash has left its end unreadable.

The server itself drops a last command that is cut short (`aof-load-truncated`). Anything else makes it refuse to start;
its own tool cuts off the file's end from the first command that cannot be read.
"""

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path


def repair(server_program: Path, directory: Path) -> Path | None:
    """Cut off what cannot be read. The copy of the file as it was, or None if there was nothing that could be repaired.

    Raises:
        OSError: the file cannot be copied.
    """
    damaged = _file_appended_to(directory / "appendonlydir")
    if damaged is None or _check(server_program, damaged):
        return None
    copy = damaged.with_name(f"{damaged.name}.damaged-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}")
    shutil.copy2(damaged, copy)
    if not _check(server_program, damaged, "--fix"):
        copy.unlink()
        return None
    return copy


def _file_appended_to(folder: Path) -> Path | None:
    """The last file that the manifest names: those before it are complete, and cannot be cut."""
    try:
        lines = (folder / "appendonly.aof.manifest").read_text().splitlines()
    except (OSError, ValueError):
        return None
    words = lines[-1].split() if lines else []
    return folder / words[1] if words[:1] == ["file"] and words[-1] == "i" else None


def _check(server_program: Path, file: Path, *options: str) -> bool:
    """Whether the file is in order, or with `--fix` whether it is now: valkey-check-aof is the server by another name.

    It is given the one file, since it takes the other in the manifest, which Valkey 9.1 writes, for damaged.
    """
    found = subprocess.run(
        ["valkey-check-aof", *options, os.fspath(file)],
        executable=server_program,
        input=b"y\n",
        check=False,
    )
    return found.returncode == 0
